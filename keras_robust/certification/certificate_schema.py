"""The schema of the JSON of a certificate report, and its validation."""

import reprlib

import numpy as np

from keras_robust.certificate import registry
from keras_robust.evaluation.reports.json_types import dict_of
from keras_robust.evaluation.reports.json_types import integer
from keras_robust.evaluation.reports.json_types import json_value
from keras_robust.evaluation.reports.json_types import list_of
from keras_robust.evaluation.reports.json_types import number
from keras_robust.evaluation.reports.json_types import record
from keras_robust.evaluation.reports.json_types import refuse
from keras_robust.evaluation.reports.json_types import text
from keras_robust.evaluation.reports.schema import CERTIFICATE as SCHEMA
from keras_robust.evaluation.reports.schema import SCHEMA as REPORT_SCHEMA
from keras_robust.evaluation.reports.schema import SIZE

SCHEMA_VERSION = 2

_NORMS = ("L1", "L2", "Linf")


def _norm(value, path):
    if value not in _NORMS:
        refuse(path, f"one of {_NORMS}", value)


def _size_or_none(value, path):
    if value is not None:
        SIZE(value, path)


_SHARE = number(0, 1)
_REPORT = record(
    model_name=text,
    method=record(class_name=text, config=dict_of(json_value)),
    norm=_norm,
    num_examples=integer(1),
    num_classes=integer(2),
    clean_accuracy=_SHARE,
    abstained=_SHARE,
    average_radius=SIZE,
    curve=record(radii=list_of(SIZE), certified_accuracy=list_of(_SHARE)),
    labels=list_of(integer(0)),
    predictions=list_of(integer(-1)),
    radii=list_of(SIZE),
    broken_radii=list_of(_size_or_none),
    seed=integer(),
    versions=dict_of(text),
    seconds=number(0),
)


def check_certificate(fields):
    """Raises a `ValueError` that names the first field that does not match the schema."""
    # Anything but an object becomes an empty one, which lacks the schema.
    fields = dict(fields) if isinstance(fields, dict) else {}
    version = fields.pop("schema_version", None)
    _check_schema(fields.pop("schema", None), version)
    if version == 1:
        fields.setdefault("broken_radii", [])
        fields.setdefault("model_name", "")
    # Check the types first, because the other checks compute with the values.
    _REPORT(fields, "certificate")
    _check_examples(fields)
    _check_figures(fields)
    _check_method(fields)


def _check_schema(schema, version):
    """Checks that a file is a certificate, and has the version that this release reads."""
    if schema == REPORT_SCHEMA:
        raise ValueError(
            "Expected a certificate of `certify`. This is a report of `evaluate`: "
            f"kr.RobustnessReport.load(path) reads it. Received: schema={schema!r}"
        )
    # `True` equals 1.
    known = type(version) is int and 1 <= version <= SCHEMA_VERSION
    if schema != SCHEMA or not known:
        raise ValueError(
            f"Expected a certificate with schema {SCHEMA!r} and schema_version 1 to "
            f"{SCHEMA_VERSION}. "
            f"Received: schema={reprlib.repr(schema)}, schema_version={reprlib.repr(version)}"
        )


def _check_examples(fields):
    """Checks labels, predictions and radii against the numbers of examples and classes."""
    size, classes = fields["num_examples"], fields["num_classes"]
    for name in ("labels", "predictions", "radii"):
        if len(fields[name]) != size:
            refuse(f"certificate.{name}", f"a list of num_examples {size}", fields[name])
    for name in ("labels", "predictions"):
        if max(fields[name]) >= classes:
            refuse(f"certificate.{name}", f"classes below num_classes {classes}", fields[name])
    _check_broken(fields["broken_radii"], fields["radii"])
    for given, radius in zip(fields["predictions"], fields["radii"], strict=True):
        if given < 0 and radius:
            refuse("certificate.radii", "0 if the prediction is -1, abstained", fields["radii"])


def _check_broken(broken, radii):
    """Checks the radii of mistakes against those of proofs."""
    if broken and len(broken) != len(radii):
        refuse("certificate.broken_radii", f"no entries, or num_examples {len(radii)}", broken)
    for radius, found in zip(radii, broken, strict=False):
        if found is not None and found <= radius:
            refuse("certificate.broken_radii", "radii above those that are certified", broken)


def _check_method(fields):
    """Checks `norm` against the method, if the method is a class of this package."""
    method = fields["method"]
    cls = registry.classes.get(method["class_name"].lower())
    if cls is None:  # A class of the user.
        return
    try:
        # `from_config` would build any class that an untrusted file names.
        norm = cls(**method["config"]).norm
    except (TypeError, ValueError) as error:
        name = method["class_name"]
        raise ValueError(
            f"Expected the arguments of {name} in certificate.method.config. {error}"
        ) from error
    if fields["norm"] != norm:
        refuse("certificate.norm", f"{norm!r}, the norm of {method['class_name']}", fields["norm"])


def _check_figures(fields):
    """Checks that accuracy, abstentions and average radius follow from the examples."""
    rows = list(zip(fields["labels"], fields["predictions"], fields["radii"], strict=True))
    size = len(rows)
    own = {
        "clean_accuracy": sum(label == given for label, given, _ in rows) / size,
        "abstained": sum(given == -1 for _, given, _ in rows) / size,
        "average_radius": sum(radius for label, given, radius in rows if label == given) / size,
    }
    for name, value in own.items():
        # Sums in another order differ in the last digits.
        if abs(fields[name] - value) > 1e-9 * (1.0 + value):
            refuse(f"certificate.{name}", f"the value for the examples, {value}", fields[name])
    _check_curve(
        fields["curve"], np.sort([radius for label, given, radius in rows if label == given]), size
    )


def _check_curve(curve, ranked, size):
    """Checks that the curve follows from `ranked`, the sorted radii of correct predictions."""
    radii, shares = np.asarray(curve["radii"], float), curve["certified_accuracy"]
    if not len(radii) == len(shares) >= 1 or radii[0] != 0.0 or np.any(np.diff(radii) <= 0.0):
        refuse("certificate.curve", "an accuracy per radius, with radii ascending from 0", curve)
    # The report counts radii of at least `radii`, hence side="left".
    own = (len(ranked) - np.searchsorted(ranked, radii, side="left")) / size
    if np.any(np.abs(own - shares) > 1e-9):
        refuse("certificate.curve", "the curve of the examples", curve)
