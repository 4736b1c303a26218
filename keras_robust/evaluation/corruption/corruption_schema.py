"""The schema of the JSON of a corruption report, and its validation."""

import reprlib

import numpy as np

from keras_robust.evaluation.corruption.severities import NUM_SEVERITIES
from keras_robust.evaluation.corruption.severities import PUBLISHED
from keras_robust.evaluation.corruption.severities import SEVERITIES
from keras_robust.evaluation.reports.json_types import dict_of
from keras_robust.evaluation.reports.json_types import integer
from keras_robust.evaluation.reports.json_types import list_of
from keras_robust.evaluation.reports.json_types import number
from keras_robust.evaluation.reports.json_types import optional
from keras_robust.evaluation.reports.json_types import record
from keras_robust.evaluation.reports.json_types import refuse
from keras_robust.evaluation.reports.json_types import text

SCHEMA = "keras_robust.corruption_report"
SCHEMA_VERSION = 1


def _one_of(names):
    def check(value, path):
        if value not in names:
            refuse(path, f"one of {', '.join(names)}", value)

    return check


_SHARE, _RATIO = number(0, 1), number()
_FIGURES = dict(
    clean_accuracy=_SHARE,
    accuracy=list_of(list_of(_SHARE, NUM_SEVERITIES)),
    mean_accuracy=_SHARE,
    confidence=list_of(_SHARE, 2),
    mean_error=_SHARE,
    corruption_errors=optional(list_of(optional(_RATIO))),
    mean_corruption_error=optional(_RATIO),
    relative_corruption_errors=optional(list_of(optional(_RATIO))),
    relative_mean_corruption_error=optional(_RATIO),
)
FIGURES = tuple(_FIGURES)
_REPORT = record(
    kinds=list_of(_one_of(tuple(SEVERITIES))),
    num_examples=integer(1),
    num_classes=integer(1),
    num_clean_correct=integer(0),
    num_correct=list_of(list_of(integer(0), NUM_SEVERITIES)),
    parameters=_one_of(tuple(PUBLISHED.values())),
    bounds=list_of(number(), 2),
    baseline=optional(dict_of(optional(_SHARE))),
    warnings=list_of(text),
    seed=integer(),
    versions=dict_of(text),
    seconds=number(0),
    **_FIGURES,
)


def check_fields(fields):
    """Raises a `ValueError` that names the first field that does not match the schema."""
    # Anything but an object becomes an empty one, which lacks the schema.
    fields = dict(fields) if isinstance(fields, dict) else {}
    schema, version = fields.pop("schema", None), fields.pop("schema_version", None)
    # `True` equals 1.
    if schema != SCHEMA or type(version) is not int or version != SCHEMA_VERSION:
        raise ValueError(
            f"Expected a report with schema {SCHEMA!r} and schema_version {SCHEMA_VERSION}. "
            f"Received: schema={reprlib.repr(schema)}, schema_version={reprlib.repr(version)}"
        )
    # Check the types first, because the other checks compute with the values.
    _REPORT(fields, "report")
    _check_counts(fields)
    _check_baseline(fields["baseline"], fields["kinds"])


def _check_counts(fields):
    """Checks that there are counts for every kind, and none above the number of examples."""
    kinds, counts, size = fields["kinds"], fields["num_correct"], fields["num_examples"]
    if not kinds or len(set(kinds)) < len(kinds):
        refuse("report.kinds", "at least one kind, each of them once", kinds)
    if len(counts) != len(kinds):
        refuse("report.num_correct", "a row for each kind", counts)
    if max(fields["num_clean_correct"], *map(max, counts)) > size:
        refuse("report.num_correct", f"counts up to num_examples {size}", counts)


def _check_baseline(baseline, kinds):
    """Checks that a baseline has an error for every kind; that without corruptions may miss."""
    if baseline is None:
        return
    if list(baseline) != ["clean", *kinds]:
        refuse("report.baseline", "the clean error and one for each kind", baseline)
    if None in [baseline[kind] for kind in kinds]:
        refuse("report.baseline", "numbers for all kinds", baseline)


def check_figures(given, own):
    """Raises a `ValueError` unless the figures of a file follow from its counts.

    Args:
        given: dict with `FIGURES`, checked by `check_fields`.
        own: dict with `FIGURES`, computed from the counts.
    """
    for name, value in own.items():
        # As a float, `None` is NaN. Other versions of SciPy may differ in the last digits.
        found, expected = (np.asarray(one, "float64") for one in (given[name], value))
        is_same = found.shape == expected.shape
        if not is_same or not np.allclose(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True):
            refuse(f"report.{name}", f"the value for the counts, {value}", given[name])
