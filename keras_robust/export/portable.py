"""Export to runtimes other than TensorFlow: ONNX, LiteRT and OpenVINO."""

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
from keras_robust.export.guards import warn_without_bounds
from keras_robust.export.inputs import Inputs
from keras_robust.export.manifest import make_manifest
from keras_robust.export.model_card import write_model_card
from keras_robust.export.prediction_function import is_random
from keras_robust.export.served_model import ServedModel

_SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
FORMATS = tuple(_SUFFIXES)
_NEEDS = {"onnx": ("tf2onnx", "onnxruntime"), "litert": (), "openvino": ("openvino",)}
_TOLERANCE = 1e-4


@with_argument_advice
def export_portable(model, path, format, *, report=None, label_names=None, guard="auto", data=None):
    """Writes a Keras classifier for another runtime, and checks that its predictions are the same.

    The folder holds `model.onnx`, `model.tflite`, or `model.xml` with `model.bin`, and
    `robustness.json` and `MODEL_CARD.md`, which `export_saved_model` describes. The exported
    function takes the input of the model and returns `probabilities` and `label`. These formats
    cannot raise errors: an input that the guard rejects, or whose logits are not finite, gets NaN
    probabilities and the label -1. A `RandomizedSmoothing` draws its noise from its `seed`.

    Args:
        model: built `keras.Model` with one input and one classification output.
        path: str, the folder to make. It must not exist.
        format: `"onnx"`, `"litert"` or `"openvino"`.
        report: see `export_saved_model`.
        label_names: see `export_saved_model`. The model card lists them.
        guard: see `export_saved_model`.
        data: see `export_saved_model`. The check compares predictions for its first examples.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists.
        ImportError: if a package is missing; the extra with the name of the format installs it.
        ValueError: for a model with several inputs, a model that draws fresh noise, a guard that
            rejects inputs behind another layer, an unknown format, and a file whose predictions
            differ from those of Keras.
    """
    check_format(format)
    path = pathlib.Path(path).absolute()
    with atomic_directory(path) as partial:
        inputs = single_input(model, format)
        served = ServedModel(model, inputs, choose_guards(model, inputs, guard, report))
        data = _examples(report, data)
        (x,) = served.first_rows(data)
        guarded_model = _Guarded(served)
        with inputs.missing_data_context(data):
            expected = [np.asarray(value) for value in _pair(guarded_model(tf.constant(x)))]
        file = partial / f"model{_SUFFIXES[format]}"
        write_file(guarded_model, file, format, *inputs.specs)
        _check_predictions(format, file, x, expected)
        manifest = make_manifest(served, [], report=report, label_names=label_names, data=data)
        # NaN is not JSON, and other readers reject it.
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        (partial / "robustness.json").write_text(text, encoding="utf-8")
        (partial / "MODEL_CARD.md").write_text(write_model_card(manifest), encoding="utf-8")
        warn_without_bounds(served.guards, guard, report)
    return path


def check_format(format):
    """Raises an error unless this backend can write the format with the installed packages."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "This export converts a TensorFlow graph: set KERAS_BACKEND=tensorflow, and load the "
            f"model there. Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    if format not in FORMATS:
        raise ValueError(f"Expected one of the formats {list(FORMATS)}. Received: {format!r}")
    for name in _NEEDS[format]:
        _load(name, format)


def single_input(model, format):
    """Returns the `Inputs` of a model, which must have one input."""
    inputs = Inputs(model)
    if len(inputs.specs) != 1:
        names = [spec.name for spec in inputs.specs]
        raise ValueError(f"The format {format!r} takes models with one input. Received: {names}")
    return inputs


def write_file(model, file, format, spec):
    """Writes a model with one input of the shape, dtype and name of `spec` to a file."""
    signature = keras.InputSpec(shape=tuple(spec.shape), dtype=spec.dtype.name, name=spec.name)
    model.export(str(file), format=format, verbose=False, input_signature=[signature])


def _examples(report, data):
    """Returns `data` as arrays, or the examples that the report holds, or `None`."""
    if data is not None:
        return to_arrays(data)
    return None if report is None or report.x is None else (report.x, report.y)


def predict_portable(format, file, x):
    """Returns the arrays `(probabilities, label)` that the runtime of the format computes.

    Args:
        format: one of `FORMATS`.
        file: str, the model file in the folder that `export_portable` wrote.
        x: array `(batch_size, ...)`.
    """
    outputs = {"onnx": run_onnx, "litert": _run_litert, "openvino": _run_openvino}[format](file, x)
    return _pair(outputs)


class _Guarded(keras.Model):
    """Model of guard and classifier that returns NaN for inputs that the guard rejects."""

    def __init__(self, served):
        super().__init__(name="guarded")
        self.model = served.model
        self._predict = served.prediction_function()
        self._judge = served.scale_guard
        _check_hidden(self.model, self._judge)

    def call(self, x):
        logits, probabilities = self._predict([x])
        accepted = ops.all(ops.isfinite(logits), axis=-1)
        if self._judge is not None:
            accepted = ops.logical_and(accepted, self._judge.accepts(x))
        nan = ops.cast(float("nan"), logits.dtype)
        return {
            "probabilities": ops.where(accepted[:, None], probabilities, nan),
            # `keras.ops.argmax` makes graph operations that the other formats lack.
            "label": ops.where(accepted, tf.argmax(logits, axis=-1), -1),
        }


def _check_hidden(model, judge):
    """Raises ValueError if the file could not show what the model rejects or draws at random."""
    if is_random(model):
        raise ValueError(
            "The predictions of a random model cannot be checked: give the RandomizedSmoothing a "
            f"seed. Received: {model.name!r} with seed=None"
        )
    for guard in guards_within(model):
        if guard is not judge and "reject" in (guard.outside, guard.non_finite):
            raise ValueError(
                "This format cannot raise errors, and only a guard in front of the model can mark "
                "the inputs that it rejects: put the InputGuard first, or let it clip and replace. "
                f"Received: the layer {guard.name!r} of {model.name!r}"
            )


def _check_predictions(format, file, x, expected):
    """Raises ValueError unless the file predicts the expected arrays."""
    for size in (1, len(x)):
        found = [np.asarray(value) for value in predict_portable(format, file, x[:size])]
        for have, want in zip(found, expected, strict=True):
            check_same(format, have, want[:size])


def check_same(format, have, want):
    """Raises ValueError unless the predictions of a file, `have`, are those of Keras, `want`."""
    if have.shape != want.shape or not np.allclose(have, want, atol=_TOLERANCE):
        raise ValueError(
            f"The predictions of the {format} file differ from those of Keras. "
            f"Expected {want.tolist()}. Received: {have.tolist()}"
        )


def run_onnx(file, x):
    """Returns a dict of the arrays that ONNX Runtime computes, by the names of the outputs."""
    session = _load("onnxruntime", "onnx").InferenceSession(str(file))
    values = session.run(None, {session.get_inputs()[0].name: x})
    names = (output.name for output in session.get_outputs())
    return dict(zip(names, values, strict=True))


def _run_litert(file, x):
    try:
        interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(file))
    except ImportError:
        # TensorFlow contains the same interpreter.
        interpreter = tf.lite.Interpreter(str(file))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    ((_, signature),) = interpreter.get_signature_list().items()
    return interpreter.get_signature_runner()(**{signature["inputs"][0]: x})


def _run_openvino(file, x):
    core = _load("openvino", "openvino").Core()
    # By default OpenVINO computes in half precision where the processor supports it.
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
