"""The schema of the JSON of a robustness report, and its validation."""

import dataclasses
import math
import reprlib

import numpy as np

from keras_robust.evaluation.checks.check import VERDICTS
from keras_robust.evaluation.reports.consistency import check_consistency
from keras_robust.evaluation.reports.json_types import array_of
from keras_robust.evaluation.reports.json_types import dict_of
from keras_robust.evaluation.reports.json_types import integer
from keras_robust.evaluation.reports.json_types import json_value
from keras_robust.evaluation.reports.json_types import list_of
from keras_robust.evaluation.reports.json_types import number
from keras_robust.evaluation.reports.json_types import optional
from keras_robust.evaluation.reports.json_types import record
from keras_robust.evaluation.reports.json_types import refuse
from keras_robust.evaluation.reports.json_types import text
from keras_robust.evaluation.reports.shard_schema import check_shard

SCHEMA = "keras_robust.robustness_report"
# The version of a report without certificates, and the version that added them.
WITHOUT_PROOFS, WITH_PROOFS = 2, 3
PROOF_FIELDS = ("certificates", "certified_accuracy")
CERTIFICATE = "keras_robust.certificate_report"


def to_plain(value):
    """Returns a value as JSON can hold it, without tuples and infinite numbers.

    A dataclass becomes a dict without its arrays. Unknown objects stay, so that writing them fails.
    """
    if dataclasses.is_dataclass(value):
        return to_plain(_fields_without_arrays(value))
    if isinstance(value, (np.ndarray, np.generic)):
        return to_plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value


def _fields_without_arrays(value):
    """Returns the fields of a report as a dict, without arrays, which it marks by `repr=False`."""
    kept = (field.name for field in dataclasses.fields(value) if field.repr)
    return {name: getattr(value, name) for name in kept}


def check_report(fields):
    """Raises a `ValueError` that names the first field that does not match the schema."""
    fields = dict(fields) if isinstance(fields, dict) else {}
    version = _check_version(fields.pop("schema", None), fields.pop("schema_version", None))
    shard = fields.pop("shard", None)
    # Reports of earlier releases have no `inputs`.
    _REPORTS[version]({"inputs": None, **fields}, "report")
    # Last, because it computes with values whose types are checked above.
    check_consistency(fields)
    if shard is not None:
        check_shard(shard, fields)


def _check_version(schema, version):
    """Returns the version of a report that this release reads."""
    if schema == CERTIFICATE:
        raise ValueError(
            "Expected a report of `evaluate`. This is a certificate: "
            f"kr.CertificateReport.load(path) reads it. Received: schema={schema!r}"
        )
    versions = (WITHOUT_PROOFS, WITH_PROOFS)
    if schema != SCHEMA or version not in versions:
        old = " Version 1 lacks most of the fields: evaluate again." if version == 1 else ""
        raise ValueError(
            f"Expected a report with schema {SCHEMA!r} and schema_version "
            f"{' or '.join(map(str, versions))}.{old} "
            f"Received: schema={reprlib.repr(schema)}, schema_version={reprlib.repr(version)}"
        )
    return version


def _verdict(value, path):
    if value not in VERDICTS:
        refuse(path, f"one of {', '.join(VERDICTS)}", value)


_SHARE = number(0, 1)
_COUNT = integer(0)
# Inputs and distances are float32.
_LARGEST = float(np.finfo("float32").max)
SIZE, _VALUE = number(0, _LARGEST), number(-_LARGEST, _LARGEST)

_ATTACK = record(
    name=text,
    settings=dict_of(json_value),
    accuracy=optional(_SHARE),
    accuracy_so_far=_SHARE,
    zero_gradient=_SHARE,
    seconds=number(0),
    num_attacked=optional(_COUNT),
    queries=optional(_COUNT),
)
_CHECK = record(
    name=text,
    value=optional(number()),
    threshold=optional(number()),
    verdict=_verdict,
    advice=text,
)
_CLASS = record(
    **{
        "class": _COUNT,
        "num_examples": _COUNT,
        "clean_accuracy": optional(_SHARE),
        "robust_accuracy": optional(_SHARE),
    }
)
_PROOF = record(
    name=text,
    settings=dict_of(json_value),
    num_examples=_COUNT,
    num_proved=_COUNT,
    num_broken=_COUNT,
    seconds=number(0),
)
_FIELDS = dict(
    threat_model=record(class_name=text, config=dict_of(json_value), epsilon=array_of(SIZE)),
    num_examples=integer(1),
    num_classes=integer(1),
    clean_accuracy=_SHARE,
    robust_accuracy=_SHARE,
    confidence=list_of(_SHARE, 2),
    attacks=list_of(_ATTACK),
    warnings=list_of(text),
    seed=integer(),
    versions=dict_of(text),
    seconds=number(0),
    suite=optional(text),
    batch_size=optional(integer(1)),
    queries=optional(_COUNT),
    checks=list_of(_CHECK),
    curve=optional(record(attack=text, epsilons=list_of(SIZE), robust_accuracy=list_of(_SHARE))),
    median_distance=optional(SIZE),
    per_class=optional(list_of(_CLASS)),
    inputs=optional(record(low=_VALUE, high=_VALUE, num_features=integer(1))),
    confusion=optional(list_of(list_of(_COUNT))),
)
_REPORTS = {
    WITHOUT_PROOFS: record(**_FIELDS),
    WITH_PROOFS: record(**_FIELDS, certificates=list_of(_PROOF), certified_accuracy=_SHARE),
}
