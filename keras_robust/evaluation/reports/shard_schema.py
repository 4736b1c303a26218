"""The schema of the record of a shard in the JSON of a report."""

from keras_robust.evaluation.reports.json_types import dict_of
from keras_robust.evaluation.reports.json_types import integer
from keras_robust.evaluation.reports.json_types import list_of
from keras_robust.evaluation.reports.json_types import number
from keras_robust.evaluation.reports.json_types import optional
from keras_robust.evaluation.reports.json_types import record
from keras_robust.evaluation.reports.json_types import refuse
from keras_robust.evaluation.reports.json_types import text

_ROUNDING = 1e-9
_FLAGS, _COUNTS = list_of(integer(0, 1)), list_of(integer(0))


def _distance(value, path):
    # JSON has no infinity, the distance of an example without a mistake.
    if value != "inf":
        number(0)(value, path)


_SHARD = record(
    index=integer(0),
    count=integer(1),
    num_examples=integer(1),
    evaluation=dict_of(text),
    uses_gradients=_FLAGS,
    num_outside=_COUNTS,
    sizes=list_of(list_of(optional(number(0)), 5)),
    rows=record(
        y=_COUNTS,
        predictions=_COUNTS,
        adv_predictions=_COUNTS,
        robust=_FLAGS,
        proved=_FLAGS,
        distances=optional(list_of(_distance)),
    ),
)


def check_shard(shard, fields):
    """Raises a `ValueError` unless a record of a shard fits the report that holds it.

    Args:
        shard: the value of the field `shard`.
        fields: dict, the other fields of the report, which were checked before.
    """
    _SHARD(shard, "report.shard")
    if shard["index"] >= shard["count"]:
        refuse("report.shard.index", f"below the number of shards {shard['count']}", shard["index"])
    size = fields["num_examples"]
    if len(range(shard["index"], shard["num_examples"], shard["count"])) != size:
        expected = f"such that the shard has {size} of them"
        refuse("report.shard.num_examples", expected, shard["num_examples"])
    _check_rows(shard["rows"], size, fields["num_classes"])
    _check_accuracies(shard["rows"], fields)
    if not shard["evaluation"]:
        refuse("report.shard.evaluation", "a digest of each setting", shard["evaluation"])
    for name in ("uses_gradients", "num_outside"):
        if len(shard[name]) != len(fields["attacks"]):
            expected = f"one value for each of {len(fields['attacks'])} attacks"
            refuse(f"report.shard.{name}", expected, shard[name])
    if any(None in (*size[:3], size[4]) for size in shard["sizes"]):
        refuse("report.shard.sizes", "numbers, of which the fourth may be None", shard["sizes"])


def _check_rows(rows, size, num_classes):
    """Checks that there is one result for each example, and that classes are below their number."""
    for name, values in rows.items():
        if values is not None and len(values) != size:
            refuse(f"report.shard.rows.{name}", f"{size} values", values)
    for name in ("y", "predictions", "adv_predictions"):
        if max(rows[name]) >= num_classes:
            refuse(f"report.shard.rows.{name}", f"below {num_classes}", max(rows[name]))


def _check_accuracies(rows, fields):
    """Checks that the results give the accuracies of the report."""
    correct = [one == label for one, label in zip(rows["predictions"], rows["y"], strict=True)]
    for name, right in (("clean_accuracy", correct), ("robust_accuracy", rows["robust"])):
        found = sum(right) / len(right)
        if abs(found - fields[name]) > _ROUNDING:
            refuse(f"report.{name}", f"{found} as in report.shard.rows", fields[name])
    for name in ("robust", "proved"):
        # A clean mistake is neither.
        if any(flag and not right for flag, right in zip(rows[name], correct, strict=True)):
            refuse(f"report.shard.rows.{name}", "0 where a prediction is wrong", rows[name])
