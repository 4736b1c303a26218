"""Files for runtimes other than TensorFlow: ONNX, LiteRT, OpenVINO."""

import importlib
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_robust.attacks.data import to_arrays
from keras_robust.calls import with_argument_advice
from keras_robust.export.atomic_directory import atomic_directory
from keras_robust.export.guards import choose_guards
from keras_robust.export.guards import guards_within
from keras_robust.export.guards import scale_of
from keras_robust.export.guards import warn_without_bounds
from keras_robust.export.inputs import Inputs
from keras_robust.export.manifest import make_manifest
from keras_robust.export.model_card import write_model_card
from keras_robust.export.prediction_function import PredictionFunction
from keras_robust.export.prediction_function import is_random
from keras_robust.export.warmup import first_rows
from keras_robust.export.warmup import missing_data_context

_SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
FORMATS = tuple(_SUFFIXES)
_NEEDS = {"onnx": ("tf2onnx", "onnxruntime"), "litert": (), "openvino": ("openvino",)}
_TOLERANCE = 1e-4


@with_argument_advice
def export_portable(model, path, format, *, report=None, label_names=None, guard="auto", data=None):
    """Writes a Keras classifier for another runtime, and checks that it predicts the same there.

    The folder has `model.onnx`, `model.tflite`, or `model.xml` with `model.bin`, and
    `robustness.json` and `MODEL_CARD.md` as `export_saved_model` writes them. The function takes
    the input of the model and returns `probabilities` and `label`. These formats have no errors:
    what the guard rejects, and what gets logits that are not finite, has probabilities NaN and the
    label -1. A `RandomizedSmoothing` draws the noise of its `seed`.

    Args:
        model: built `keras.Model` with one input and one classification output.
        path: str, the folder to make. Must not exist.
        format: `"onnx"`, `"litert"` or `"openvino"`.
        report: as in `export_saved_model`.
        label_names: as in `export_saved_model`, for the model card.
        guard: as in `export_saved_model`.
        data: as in `export_saved_model`; the first examples are predicted by both.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists.
        ImportError: without the packages of the extra that has the name of the format.
        ValueError: for a model with several inputs, one that draws fresh noise or has a guard that
            rejects behind another layer, an unknown format, and a file that predicts something else
            than Keras does.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Other formats are made from TensorFlow graphs: set KERAS_BACKEND=tensorflow, and load "
            f"the model there. Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    if format not in FORMATS:
        raise ValueError(f"Expected one of the formats {list(FORMATS)}. Received: {format!r}")
    for name in _NEEDS[format]:
        _load(name, format)
    path = pathlib.Path(path).absolute()
    with atomic_directory(path) as partial:
        inputs = Inputs(model)
        data = None if data is None else to_arrays(data)
        if len(inputs.specs) != 1:
            names = [spec.name for spec in inputs.specs]
            raise ValueError(
                f"The format {format!r} takes models with one input. Received: {names}"
            )
        guards = choose_guards(model, inputs, guard, report)
        if data is None and report is not None and report.x is not None:
            data = report.x, report.y
        (x,) = first_rows(model, inputs, guards, data)
        guarded = _Guarded(model, inputs, guards[0])
        with missing_data_context(inputs, data):
            expected = [np.asarray(value) for value in _pair(guarded(tf.constant(x)))]
        file = partial / f"model{_SUFFIXES[format]}"
        (spec,) = inputs.specs
        signature = keras.InputSpec(shape=tuple(spec.shape), dtype=spec.dtype.name, name=spec.name)
        guarded.export(str(file), format=format, verbose=False, input_signature=[signature])
        _check(format, file, x, expected)
        manifest = make_manifest(
            model, inputs, guards, [], report=report, label_names=label_names, data=data
        )
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        (partial / "robustness.json").write_text(text, encoding="utf-8")
        (partial / "MODEL_CARD.md").write_text(write_model_card(manifest), encoding="utf-8")
        warn_without_bounds(guards, guard, report)
    return path


def predict_portable(format, file, x):
    """Returns `(probabilities, label)` of the file for a batch, arrays, from the format's runtime.

    Args:
        format: one of `FORMATS`.
        file: str, the file in the folder that `export_portable` wrote.
        x: array `(batch_size, ...)`.
    """
    outputs = {"onnx": _run_onnx, "litert": _run_litert, "openvino": _run_openvino}[format](file, x)
    return _pair(outputs)


class _Guarded(keras.Model):
    """Guard, classifier, and NaN for what the guard rejects."""

    def __init__(self, model, inputs, guard):
        super().__init__(name="guarded")
        self.model = model
        self._answers = PredictionFunction(model, pack=lambda x: inputs.pack([x]))
        self._in_front = guard
        self._judge = scale_of(model, inputs.specs[0], guard)
        _check_hidden(model, self._judge)

    def call(self, x):
        logits, probabilities = self._answers(x if self._in_front is None else self._in_front(x))
        accepted = ops.all(ops.isfinite(logits), axis=-1)
        if self._judge is not None:
            accepted = ops.logical_and(accepted, self._judge.accepts(x))
        nan = ops.cast(float("nan"), logits.dtype)
        return {
            "probabilities": ops.where(accepted[:, None], probabilities, nan),
            # That of Keras has operations which the other formats lack.
            "label": ops.where(accepted, tf.argmax(logits, axis=-1), -1),
        }


def _check_hidden(model, judge):
    if is_random(model):
        raise ValueError(
            "A file of this format cannot be checked if it answers at random: give the "
            f"RandomizedSmoothing a seed. Received: {model.name!r} with seed=None"
        )
    for guard in guards_within(model):
        if guard is not judge and "reject" in (guard.outside, guard.non_finite):
            raise ValueError(
                "This format has no errors, and only a guard in front of the model can tell what "
                "it rejects: put the InputGuard first, or use one that clips and replaces. "
                f"Received: the layer {guard.name!r} of {model.name!r}"
            )


def _check(format, file, x, expected):
    for size in (1, len(x)):
        found = [np.asarray(value) for value in predict_portable(format, file, x[:size])]
        for have, want in zip(found, expected, strict=True):
            is_same = have.shape == want[:size].shape
            if not is_same or not np.allclose(have, want[:size], atol=_TOLERANCE):
                raise ValueError(
                    f"The model predicts something else as {format} than in Keras. "
                    f"Received: {have.tolist()}, expected {want[:size].tolist()}"
                )


def _run_onnx(file, x):
    session = _load("onnxruntime", "onnx").InferenceSession(str(file))
    values = session.run(None, {session.get_inputs()[0].name: x})
    names = (output.name for output in session.get_outputs())
    return dict(zip(names, values, strict=True))


def _run_litert(file, x):
    try:
        interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(file))
    except ImportError:
        interpreter = tf.lite.Interpreter(str(file))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    ((_, signature),) = interpreter.get_signature_list().items()
    return interpreter.get_signature_runner()(**{signature["inputs"][0]: x})


def _run_openvino(file, x):
    core = _load("openvino", "openvino").Core()
    # By default it computes in half precision where the processor can.
    compiled = core.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled(x)
    return {output.get_any_name(): outputs[output] for output in compiled.outputs}


def _pair(outputs):
    return outputs["probabilities"], outputs["label"]


def _load(name, format):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"The format {format!r} needs the package {name}: pip install "
            f"'keras_robust[{format}]'. Received: {error}"
        ) from error
