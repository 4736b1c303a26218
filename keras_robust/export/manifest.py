"""Metadata of a served model: `robustness.json` and `models.config`."""

import hashlib
import json

import keras
import numpy as np
import tensorflow as tf

from keras_robust.layers import RandomizedSmoothing
from keras_robust.version import __version__

SCHEMA = "keras_robust.served_model"
SCHEMA_VERSION = 1


def make_manifest(served, signatures, *, report, label_names, data):
    """Returns the content of `assets.extra/robustness.json`, a dict.

    Args:
        served: `ServedModel`.
        signatures: names of the signatures.
        report: `RobustnessReport` or `None`.
        label_names: list of str or `None`.
        data: `(x, y)`, the examples on which robustness was measured, or `None`.
    """
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": served.model.name,
            "num_parameters": int(served.model.count_params()),
            "label_names": None if label_names is None else list(label_names),
            "smoothing": _smoothing(served.model),
        },
        "inputs": {
            spec.name: {
                "shape": spec.shape.as_list(),
                "dtype": spec.dtype.name,
                "guard": None if guard is None else _plain_guard(guard),
            }
            for spec, guard in zip(served.inputs.specs, served.guards, strict=True)
        },
        "signatures": sorted(signatures),
        "threat_model": None if report is None else report.threat_model,
        "report": None if report is None else report.to_dict(),
        "data_fingerprint": None if data is None else fingerprint(*data),
        "versions": {
            "keras_robust": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
    }


def fingerprint(x, y):
    """Returns the SHA-256 of examples and labels, and the number of examples, in a dict.

    The digest covers dtype, shape and bytes of every array in the order of `keras.tree.flatten`.
    """
    digest = hashlib.sha256()
    for leaf in [*keras.tree.flatten(x), y]:
        leaf = np.ascontiguousarray(leaf)
        # The bytes of an object array are addresses, so use the repr of its values.
        has_objects = leaf.dtype.kind == "O"
        # Arrays of other dtypes or shapes may have the same bytes.
        digest.update(f"{leaf.dtype} {leaf.shape}".encode())
        digest.update(repr(leaf.tolist()).encode() if has_objects else leaf.tobytes())
    return {"sha256": digest.hexdigest(), "num_examples": len(y)}


def models_config(path):
    """Returns a `models.config` for TensorFlow Serving that serves the version at `path`."""
    version = path.name
    policy = ""
    if version.isdecimal():
        policy = (
            f"    model_version_policy {{ specific {{ versions: {version} }} }}\n"
            f'    version_labels {{ key: "stable" value: {version} }}\n'
        )
    # Quoted, because a folder may have quotes and line ends in its name.
    name, base_path = json.dumps(path.parent.name), json.dumps(str(path.parent.resolve()))
    return (
        "model_config_list {\n"
        "  config {\n"
        f"    name: {name}\n"
        f"    base_path: {base_path}\n"
        '    model_platform: "tensorflow"\n'
        f"{policy}"
        "  }\n"
        "}\n"
    )


def _smoothing(model):
    """Returns the settings of a `RandomizedSmoothing`, and `None` for other models."""
    if not isinstance(model, RandomizedSmoothing):
        return None
    names = ("noise_stddev", "num_samples", "seed")
    return {name: getattr(model, name) for name in names}


def _plain_guard(guard):
    config = guard.get_config()
    return {key: config[key] for key in ("bounds", "outside", "non_finite", "integers")}
