"""Export of a Keras classifier as a SavedModel for a production server."""

import json
import pathlib
import unicodedata

import numpy as np

from keras_robust.attacks.data import to_arrays
from keras_robust.calls import with_argument_advice
from keras_robust.evaluation import RobustnessReport
from keras_robust.evaluation.validation import check_labels
from keras_robust.export import warmup_log
from keras_robust.export.archive import ExportArchive
from keras_robust.export.atomic_directory import atomic_directory
from keras_robust.export.guards import choose_guards
from keras_robust.export.guards import warn_without_bounds
from keras_robust.export.inputs import Inputs
from keras_robust.export.manifest import make_manifest
from keras_robust.export.manifest import models_config
from keras_robust.export.model_card import write_model_card
from keras_robust.export.prediction_function import is_random
from keras_robust.export.served_model import ServedModel
from keras_robust.export.signatures import make_signatures
from keras_robust.export.warmup import make_warmup_requests
from keras_robust.layers.input_transformation import check_count
from keras_robust.models import predict_clean_logits

# Unicode categories: controls, surrogates, separators of lines, separators of paragraphs.
_BREAKING = {"Cc", "Cs", "Zl", "Zp"}


@with_argument_advice
def export_saved_model(
    model,
    path,
    *,
    report=None,
    label_names=None,
    guard="auto",
    data=None,
    max_samples=100_000,
    check=None,
):
    """Writes a Keras classifier as a SavedModel that needs neither Keras nor this package.

    The inputs keep the names that they have in the model, with two exceptions: `_` replaces
    characters that TensorFlow refuses, and `x_` precedes `self`, the arguments of `certify`, and
    names that do not begin with a letter. Batches can have any size. The signatures:

    - `serving_default` returns `probabilities`, `(batch_size, num_classes)` float32, and `label`,
      the index of the class, `(batch_size,)` int64. With `label_names` it also returns
      `label_name`, strings. Non-finite logits and inputs that the guard rejects raise an error.
    - `logits` returns `logits`, through which gradients flow.
    - `predict_bytes` is `serving_default` for `image_bytes`, `(batch_size,)` strings, whole PNG or
      JPEG files. It needs a model whose one input is an image of a fixed size with 1, 3 or 4
      channels. An input of floats also needs a guard with bounds in front of the model, or as its
      first layer, that states the scale; with `integers="cast"` the bounds must include 0 to 255. A
      request may have at most 4096 x 4096 pixels.
    - `certify` returns `label`, with -1 to abstain, `radius` in L2, and `count`, for a `seed`,
      `num_samples` and `alpha`. It needs a `layers.RandomizedSmoothing`. The client must choose the
      seed before it sees any answer.

    By default a `layers.InputGuard` in front of the model raises an error for inputs outside the
    bounds, NaN and infinities. The folder `assets.extra` holds `tf_serving_warmup_requests` with
    requests and answers; `robustness.json` with threat model, report, fingerprint of the data, and
    versions; `MODEL_CARD.md`; and `models.config`, an example for TensorFlow Serving. The folder
    gets its name only when it is complete. A process that is killed leaves a folder behind whose
    name begins with a dot, which no server loads.

    Args:
        model: built `keras.Model` with one or several inputs and one classification output, or a
            `layers.RandomizedSmoothing`.
        path: str, the folder to make. It must not exist. TensorFlow Serving needs
            `<name>/<version>`, for example `"models/digits/1"`, where the version is a number.
        report: `RobustnessReport`. Defaults to `None`, which leaves the robustness unknown.
        label_names: list of str without control characters, one for each class. Defaults to `None`.
        guard: `layers.InputGuard`; or a dict from names of inputs to guards; or `None` for no
            guard; or `"auto"` for the bounds in the threat model of the report, unless the model
            contains a guard. Without a report `"auto"` accepts every finite number, and warns.
            Only inputs of floats get a guard. Defaults to `"auto"`.
        data: `(x, y)` arrays, or an iterable of batches `(x, y)`: the examples of the report, for
            its fingerprint and for the warmup requests. Defaults to `None`, the examples that a
            report from `evaluate` holds. Without examples there is no fingerprint, and the requests
            are random. A model that takes text, or inputs of any length, may need real examples.
        max_samples: int from 1000 to 10,000,000, the most noisy copies that a request to `certify`
            may ask for, summed over its inputs. Defaults to `100_000`.
        check: function of the complete folder, which still has a temporary name. It raises an error
            if the folder must not be published. Defaults to `None`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists, because a served version must never change.
        ValueError: for a model that is not built or not a classifier; one column of outputs within
            [0, 1] that may be logits or probabilities; a report of another model or of other
            examples than `data`; a wrong number of names; examples that the guard rejects; and a
            model of text or of inputs of any length that fails without `data`.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import keras_robust as kr
    >>> model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    >>> guard = kr.layers.InputGuard((0, 1))
    >>> path = kr.export_saved_model(model, tempfile.mkdtemp() + "/1", guard=guard)
    >>> print(sorted(item.name for item in (path / "assets.extra").iterdir()))
    ['MODEL_CARD.md', 'models.config', 'robustness.json', 'tf_serving_warmup_requests']
    """
    path = pathlib.Path(path).absolute()
    with atomic_directory(path) as partial:
        _check_arguments(report, label_names)
        max_samples = check_count("max_samples", max_samples, 1000, 10**7)
        inputs = Inputs(model)
        data = None if data is None else to_arrays(data)
        served = ServedModel(model, inputs, choose_guards(model, inputs, guard, report))
        if report is not None and report.x is not None and data is None:
            data = report.x, report.y
        _check_classes(_num_classes(served, data), report, label_names)
        if report is not None and data is not None:
            _check_accuracy(served, report, data)
        archive = ExportArchive(model)
        signatures = make_signatures(served, label_names, max_samples, archive)
        warmup_requests = make_warmup_requests(served, signatures, data)
        for name, signature in signatures.items():
            archive.add_endpoint(name, signature.function, list(signature.specs))
        archive.write_out(str(partial), verbose=False)
        manifest = make_manifest(
            served, signatures, report=report, label_names=label_names, data=data
        )
        _write_extra(partial, path, manifest, warmup_requests)
        # Last, so that the check sees all files, and before the folder gets its name.
        if check is not None:
            check(partial)
        warn_without_bounds(served.guards, guard, report)
    return path


def _write_extra(partial, path, manifest, warmup_requests):
    texts = {
        # NaN is not JSON, and other readers reject it.
        "robustness.json": json.dumps(manifest, indent=2, allow_nan=False) + "\n",
        "MODEL_CARD.md": write_model_card(manifest),
        "models.config": models_config(path),
    }
    extra = partial / warmup_log.PLACE.parent
    extra.mkdir()
    warmup_log.write(partial / warmup_log.PLACE, path.parent.name, warmup_requests)
    for name, text in texts.items():
        (extra / name).write_text(text, encoding="utf-8")


def _logits(served, arrays):
    x = served.inputs.pack(arrays)
    is_single = served.inputs.keys == [None]
    return predict_clean_logits(served.model, np.asarray(x) if is_single else x)


def _num_classes(served, data):
    """Returns the number of classes, counted on the predictions for a few examples."""
    rows = served.first_rows(data)
    with served.inputs.missing_data_context(data):
        return _logits(served, rows).shape[-1]


def _check_arguments(report, label_names):
    if report is not None and not isinstance(report, RobustnessReport):
        # Other reports have a long repr.
        received = (
            repr(report) if isinstance(report, (str, pathlib.Path)) else type(report).__name__
        )
        raise ValueError(
            "Expected a RobustnessReport; `RobustnessReport.load(path)` reads one from a file. "
            f"Received: report={received}"
        )
    for name in label_names or ():
        # Surrogates cannot be written as UTF-8, and control characters can end a line of the card.
        if not isinstance(name, str) or {unicodedata.category(c) for c in name} & _BREAKING:
            raise ValueError(
                "Argument `label_names` must be a list of str without control characters. "
                f"Received: a name {name!r}"
            )


def _check_classes(num_classes, report, label_names):
    if report is not None and report.num_classes != num_classes:
        raise ValueError(
            f"The report describes another model: it has {report.num_classes} classes. "
            f"Received: a model with {num_classes} classes"
        )
    if label_names is not None and len(label_names) != num_classes:
        raise ValueError(
            f"Expected {num_classes} label names, one for each class. "
            f"Received: {len(label_names)} names"
        )


def _check_accuracy(served, report, data):
    """Raises ValueError if the report states another clean accuracy than the model has."""
    x, y = data
    if len(y) != report.num_examples:
        raise ValueError(
            "Argument `data` must hold the examples of the report. "
            f"Received: {len(y)} examples and a report on {report.num_examples}"
        )
    # The accuracy of a random model differs from call to call.
    if is_random(served.model):
        return
    logits = _logits(served, served.inputs.unpack(x))
    accuracy = float(np.mean(np.argmax(logits, axis=-1) == check_labels(y, logits)))
    # Allow one example to differ, because rounding can decide a tie.
    if abs(accuracy - report.clean_accuracy) > 1.001 / report.num_examples:
        raise ValueError(
            "The report describes another model or other examples: it states "
            f"{report.clean_accuracy:.2%} accuracy without attack. Received: a model with "
            f"{accuracy:.2%} on the examples"
        )
