"""SavedModels that a production server takes as they are."""

import json
import pathlib

import numpy as np

from keras_robust.backend import Archive
from keras_robust.backend import predict_logits
from keras_robust.evaluation import RobustnessReport
from keras_robust.export import warmup_log
from keras_robust.export.card import write_card
from keras_robust.export.folder import new_folder
from keras_robust.export.guards import choose_guards
from keras_robust.export.inputs import Inputs
from keras_robust.export.manifest import make_manifest
from keras_robust.export.manifest import models_config
from keras_robust.export.signatures import make_signatures
from keras_robust.export.warmup import make_exchanges


def export_saved_model(model, path, *, report=None, label_names=None, guard="auto", data=None):
    """Writes a Keras classifier as a SavedModel that needs neither Keras nor this package.

    Its inputs have the names of the model's inputs, and batches any size. The signatures:

    - `serving_default` returns `probabilities`, `(batch_size, num_classes)` float32, and `label`,
      the index of the class, `(batch_size,)` int64; with `label_names` also `label_name`, strings.
    - `logits` returns `logits`, through which gradients flow.
    - `predict_bytes` is `serving_default` for `image_bytes`, `(batch_size,)` strings, whole PNG or
      JPEG files; for models of one image of a fixed size with 1, 3 or 4 channels.
    - `certify` returns `label`, -1 to abstain, `radius` in L2 and `count`, for a `seed`,
      `num_samples` and `alpha`; for a `layers.RandomizedSmoothing`.

    A `layers.InputGuard` stands in front: inputs outside the bounds, NaN and infinities are an
    error of the request, unless you choose otherwise. Beside the model lie, in `assets.extra`,
    `tf_serving_warmup_requests` with requests and answers, `robustness.json` with threat model,
    report, fingerprint of the data and versions, `MODEL_CARD.md`, and `models.config`, an example
    for TensorFlow Serving. The folder appears under its name only when it is complete.

    Args:
        model: built `keras.Model` with one classification output, one input or several; or a
            `layers.RandomizedSmoothing`.
        path: str, the folder to make; for TensorFlow Serving `<name>/<version>`, such as
            `"models/digits/1"`. Must not exist.
        report: `RobustnessReport`. Defaults to `None`: a model of which nothing is known.
        label_names: list of str, one for each class. Defaults to `None`.
        guard: `layers.InputGuard`, or for several inputs a dict of them by name; `None` for none;
            `"auto"` for the bounds in the threat model of the report, `(0, 1)` without a report,
            and no second one if the model has its own. Inputs that are no floats get none. Defaults
            to `"auto"`.
        data: pair `(x, y)`, the examples of the report, for its fingerprint and for the warmup
            requests. Defaults to `None`: those that a report from `evaluate` holds; else there is
            no fingerprint, and the requests are random.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists: a served version is never changed.
        ValueError: for a model that is not built or is no classifier, a report of another model, a
            wrong number of names, and examples that the guard rejects.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import keras_robust as kr
    >>> model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    >>> path = kr.export_saved_model(model, tempfile.mkdtemp() + "/1")
    >>> print(sorted(item.name for item in (path / "assets.extra").iterdir()))
    ['MODEL_CARD.md', 'models.config', 'robustness.json', 'tf_serving_warmup_requests']
    """
    path = pathlib.Path(path)
    with new_folder(path) as partial:
        if report is not None and not isinstance(report, RobustnessReport):
            raise ValueError(
                "Expected a RobustnessReport; `RobustnessReport.load(path)` reads one from a file. "
                f"Received: report={report!r}"
            )
        inputs = Inputs(model)
        guards = choose_guards(model, inputs, guard, report)
        _check_classes(_num_classes(model, inputs, guards), report, label_names)
        if data is None and report is not None and report.x is not None:
            data = report.x, report.y
        archive = Archive(model)
        signatures = make_signatures(model, inputs, guards, label_names, archive)
        exchanges = make_exchanges(signatures, inputs, guards, None if data is None else data[0])
        for name, signature in signatures.items():
            archive.add_endpoint(name, signature.function, list(signature.specs))
        archive.write_out(str(partial), verbose=False)
        manifest = make_manifest(
            model, inputs, guards, signatures, report=report, label_names=label_names, data=data
        )
        texts = {
            "robustness.json": json.dumps(manifest, indent=2, allow_nan=False) + "\n",
            "MODEL_CARD.md": write_card(manifest),
            "models.config": models_config(path),
        }
        extra = partial / warmup_log.PLACE.parent
        extra.mkdir()
        warmup_log.write(partial / warmup_log.PLACE, path.parent.name, exchanges)
        for name, text in texts.items():
            (extra / name).write_text(text, encoding="utf-8")
    return path


def _num_classes(model, inputs, guards):
    """Counts the classes on random inputs, which also tells logits from probabilities."""
    boxes = [None if guard is None else guard.bounds for guard in guards]
    x = inputs.pack(inputs.make_up(2, boxes))
    return predict_logits(model, np.asarray(x) if inputs.keys == [None] else x).shape[-1]


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
