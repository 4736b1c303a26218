"""SavedModels that a production server takes as they are."""

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
from keras_robust.export.signatures import make_signatures
from keras_robust.export.warmup import first_rows
from keras_robust.export.warmup import make_warmup_requests
from keras_robust.export.warmup import missing_data_context
from keras_robust.layers.input_transformation import check_count
from keras_robust.models import predict_clean_logits

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

    Its inputs have the names of the model's inputs, with `_` for characters that TensorFlow refuses
    and `x_` in front of `self`, of what does not begin with a letter, and of what `certify` takes.
    Batches have any size. The signatures:

    - `serving_default` returns `probabilities`, `(batch_size, num_classes)` float32, and `label`,
      the index of the class, `(batch_size,)` int64; with `label_names` also `label_name`, strings.
      A batch with logits that are not finite is an error, as are inputs that the guard rejects.
    - `logits` returns `logits`, through which gradients flow.
    - `predict_bytes` is `serving_default` for `image_bytes`, `(batch_size,)` strings, whole PNG or
      JPEG files; for models of one image of a fixed size with 1, 3 or 4 channels, of integers, or
      of floats if a guard with bounds in front of the model, or as its first layer, tells their
      scale (and, with `integers="cast"`, if 0 to 255 is within the bounds). At most 4096 x 4096
      pixels a request.
    - `certify` returns `label`, -1 to abstain, `radius` in L2 and `count`, for a `seed`,
      `num_samples` and `alpha`; for a `layers.RandomizedSmoothing`. The seed must be chosen before
      any answer is seen.

    A `layers.InputGuard` stands in front: inputs outside the bounds, NaN and infinities are an
    error of the request, unless you choose otherwise. Beside the model lie, in `assets.extra`,
    `tf_serving_warmup_requests` with requests and answers, `robustness.json` with threat model,
    report, fingerprint of the data and versions, `MODEL_CARD.md`, and `models.config`, an example
    for TensorFlow Serving. The folder appears under its name only when it is complete; a process
    that is killed leaves one behind whose name begins with a point, which no server loads.

    Args:
        model: built `keras.Model` with one classification output, one input or several; or a
            `layers.RandomizedSmoothing`.
        path: str, the folder to make; for TensorFlow Serving `<name>/<version>`, such as
            `"models/digits/1"`; it finds versions with a number as their name only. Must not exist.
        report: `RobustnessReport`. Defaults to `None`: a model of which nothing is known.
        label_names: list of str without control characters, one for each class. Defaults to `None`.
        guard: `layers.InputGuard`, or for several inputs a dict of them by name; `None` for none;
            `"auto"` for the bounds in the threat model of the report, and no second one if the
            model has its own. Without a report `"auto"` lets every finite number pass, and warns.
            Inputs that are no floats get none. Defaults to `"auto"`.
        data: `(x, y)` arrays, or an iterable of batches `(x, y)`, the examples of the report, for
            its fingerprint and for the warmup requests. Defaults to `None`: those that a report
            from `evaluate` holds; else there is no fingerprint, and the requests are random. A
            model that takes text, or inputs of any length, may need real examples.
        max_samples: int from 1000 to 10,000,000, the most noisy copies that a request to `certify`
            may ask for, of all its inputs together. Defaults to `100_000`.
        check: function of the folder, complete but under another name, that raises an error if it
            must not be published. Defaults to `None`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists: a served version is never changed.
        ValueError: for a model that is not built or is no classifier, one column of outputs within
            [0, 1] that nothing says how to read, a report of another model or
            of other examples than `data`, a wrong number of names, examples that the guard
            rejects, and a model of text or of any length that fails without `data`.

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
        guards = choose_guards(model, inputs, guard, report)
        if report is not None and report.x is not None and data is None:
            data = report.x, report.y
        _check_classes(_num_classes(model, inputs, guards, data), report, label_names)
        if report is not None and data is not None:
            _check_accuracy(model, inputs, report, data)
        archive = ExportArchive(model)
        signatures = make_signatures(model, inputs, guards, label_names, max_samples, archive)
        x = None if data is None else data[0]
        warmup_requests = make_warmup_requests(model, signatures, inputs, guards, x)
        for name, signature in signatures.items():
            archive.add_endpoint(name, signature.function, list(signature.specs))
        archive.write_out(str(partial), verbose=False)
        manifest = make_manifest(
            model, inputs, guards, signatures, report=report, label_names=label_names, data=data
        )
        _write_extra(partial, path, manifest, warmup_requests)
        if check is not None:
            check(partial)
        warn_without_bounds(guards, guard, report)
    return path


def _write_extra(partial, path, manifest, warmup_requests):
    texts = {
        "robustness.json": json.dumps(manifest, indent=2, allow_nan=False) + "\n",
        "MODEL_CARD.md": write_model_card(manifest),
        "models.config": models_config(path),
    }
    extra = partial / warmup_log.PLACE.parent
    extra.mkdir()
    warmup_log.write(partial / warmup_log.PLACE, path.parent.name, warmup_requests)
    for name, text in texts.items():
        (extra / name).write_text(text, encoding="utf-8")


def _logits(model, inputs, arrays):
    x = inputs.pack(arrays)
    return predict_clean_logits(model, np.asarray(x) if inputs.keys == [None] else x)


def _num_classes(model, inputs, guards, data):
    """Counts the classes on a few examples, which also tells logits from probabilities."""
    rows = first_rows(model, inputs, guards, data)
    with missing_data_context(inputs, data):
        return _logits(model, inputs, rows).shape[-1]


def _check_arguments(report, label_names):
    if report is not None and not isinstance(report, RobustnessReport):
        # Other reports have a long repr.
        received = repr(report) if isinstance(report, (str, pathlib.Path)) else type(report).__name__
        raise ValueError(
            "Expected a RobustnessReport; `RobustnessReport.load(path)` reads one from a file. "
            f"Received: report={received}"
        )
    for name in label_names or ():
        # Surrogates cannot be written; the others end a line.
        if not isinstance(name, str) or {unicodedata.category(c) for c in name} & _BREAKING:
            raise ValueError(
                "Argument `label_names` must be a list of str without control characters. "
                f"Received: a name {name!r}"
            )


def _check_classes(num_classes, report, label_names):
    if report is not None and report.num_classes != num_classes:
        raise ValueError(
            f"The report is of another model: it has {report.num_classes} classes. "
            f"Received: a model with {num_classes} classes"
        )
    if label_names is not None and len(label_names) != num_classes:
        raise ValueError(
            f"Expected {num_classes} label names, one for each class. "
            f"Received: {len(label_names)} names"
        )


def _check_accuracy(model, inputs, report, data):
    """Tells the report of another model by the one number that is quick to measure again."""
    x, y = data
    if len(y) != report.num_examples:
        raise ValueError(
            "Argument `data` must have the examples of the report. "
            f"Received: {len(y)} examples and a report on {report.num_examples}"
        )
    if is_random(model):
        return
    logits = _logits(model, inputs, inputs.unpack(x))
    accuracy = float(np.mean(np.argmax(logits, axis=-1) == check_labels(y, logits)))
    # Rounding decides a tie.
    if abs(accuracy - report.clean_accuracy) > 1.001 / report.num_examples:
        raise ValueError(
            "The report is of another model, or of other examples: it says "
            f"{report.clean_accuracy:.2%} accuracy without attack. Received: a model with "
            f"{accuracy:.2%} on the examples"
        )
