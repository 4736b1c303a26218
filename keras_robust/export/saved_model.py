"""SavedModels that a production server takes as they are."""

import json
import pathlib
import re
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_robust.backend import Classifier
from keras_robust.backend import predict_logits
from keras_robust.evaluation import RobustnessReport


def export_saved_model(model, path, *, report=None, label_names=None):
    """Writes a Keras classifier as a SavedModel that needs neither Keras nor this package.

    The signature `serving_default` takes a batch of any size under the name of the model's input
    and returns `probabilities`, `(batch_size, num_classes)` float32, and `label`, the index of the
    class, `(batch_size,)` int64; with `label_names` also `label_name`, `(batch_size,)` strings. The
    signature `logits` returns `logits`, through which gradients flow. The folder appears under its
    name only when it is complete.

    Args:
        model: built `keras.Model` with one input and one classification output.
        path: str, the folder to make; for TensorFlow Serving it ends in a version number:
            `"models/digits/1"`. Must not exist.
        report: `RobustnessReport`, written to `assets.extra/robustness.json`. Defaults to `None`.
        label_names: list of str, one for each class. Defaults to `None`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists: a served version is never changed.
        ValueError: for a model that is not built, has several inputs, or is no classifier, and for
            a wrong number of names.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import keras_robust as kr
    >>> model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    >>> path = kr.export_saved_model(model, tempfile.mkdtemp() + "/1")
    >>> print(sorted(item.name for item in path.iterdir()))
    ['assets', 'fingerprint.pb', 'saved_model.pb', 'variables']
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(
            "A served version is never changed: give a new folder, such as the next number. "
            f"Received: path={str(path)!r}, which exists"
        )
    if report is not None and not isinstance(report, RobustnessReport):
        raise ValueError(
            "Expected a RobustnessReport; `RobustnessReport.load(path)` reads one from a file. "
            f"Received: report={report!r}"
        )
    spec = _input_spec(model)
    classifier = Classifier(model)
    num_classes = _num_classes(model, spec)
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

    def serve(x):
        logits = classifier.logits(x)
        label = tf.argmax(logits, axis=-1)
        outputs = {"probabilities": tf.nn.softmax(logits), "label": label}
        if label_names is not None:
            outputs["label_name"] = tf.gather(tf.constant(list(label_names)), label)
        return outputs

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, [spec])
    archive.add_endpoint("logits", lambda x: {"logits": classifier.logits(x)}, [spec])
    path.parent.mkdir(parents=True, exist_ok=True)
    # A poller that watches the parent for version numbers does not see a hidden name.
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial.chmod(0o755)
        archive.write_out(str(partial), verbose=False)
        if report is not None:
            (partial / "assets.extra").mkdir()
            text = json.dumps(report.to_dict(), indent=2) + "\n"
            (partial / "assets.extra" / "robustness.json").write_text(text, encoding="utf-8")
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def _input_spec(model):
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Expected a built keras.Model: call it on a batch, or give it an Input. "
            f"Received: {model!r}"
        )
    inputs = keras.tree.flatten(getattr(model, "inputs", None))
    inputs = [item for item in inputs if item is not None]
    if len(inputs) != 1:
        raise ValueError(
            "Expected a Sequential or Functional model with one input. Wrap a subclassed model: "
            "`keras.Model(inputs, model(inputs))`. "
            f"Received: {type(model).__name__} with {len(inputs)} inputs"
        )
    name = re.sub(r"\W", "_", inputs[0].name)
    return tf.TensorSpec((None, *inputs[0].shape[1:]), inputs[0].dtype, name=name)


def _num_classes(model, spec):
    """Counts the classes on random inputs, which also tells logits from probabilities."""
    shape = [2, *(size or 1 for size in spec.shape[1:])]
    x = np.random.default_rng(0).uniform(size=shape).astype(spec.dtype.as_numpy_dtype)
    return predict_logits(model, x).shape[-1]
