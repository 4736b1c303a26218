"""Consistency of a report: whether its fields fit together."""

import reprlib

import numpy as np
from scipy.stats import binomtest

from keras_robust import threat_models
from keras_robust.configurable import short_repr
from keras_robust.evaluation.reports.json_types import refuse
from keras_robust.threat_models.decimal_radius import decimal_radius
from keras_robust.threat_models.parsing import box_slack

# Without `per_class` and `confusion` nothing else in the file limits the number of classes, and
# the page of a report makes a name for each of them.
_MOST_CLASSES = 100_000


def check_consistency(fields):
    """Raises a `ValueError` that names the first field that contradicts another one.

    Args:
        fields: dict, a report whose fields all have the right types.
    """
    curve = fields["curve"]
    low, high = fields["confidence"]
    if fields["robust_accuracy"] > fields["clean_accuracy"]:
        expected = f"at most the clean accuracy {fields['clean_accuracy']}"
        refuse("report.robust_accuracy", expected, fields["robust_accuracy"])
    if low > high:
        refuse("report.confidence", "the lower end and then the upper end", fields["confidence"])
    if not low <= fields["robust_accuracy"] <= high:
        expected = f"an interval around the robust accuracy {fields['robust_accuracy']}"
        refuse("report.confidence", expected, fields["confidence"])
    if curve is not None and not _is_curve(curve["epsilons"], curve["robust_accuracy"]):
        expected = "ascending epsilons, with a robust accuracy for each that never rises"
        refuse("report.curve", expected, curve)
    _check_range(fields.get("inputs"))
    radius, bounds = _radius_and_bounds(fields["threat_model"])
    _check_inputs(fields.get("inputs"), bounds)
    _check_radius(fields["threat_model"], radius)
    _check_attacks(fields)
    _check_proofs(fields)
    _check_classes(fields)
    _check_confidence(fields)
    _check_sums(fields)


def _check_range(inputs):
    """Checks the order of the ends of the range of the inputs."""
    if inputs is not None and inputs["low"] > inputs["high"]:
        refuse("report.inputs", "the lower end and then the upper end", inputs)


def _check_inputs(inputs, bounds):
    """Checks that the range of the inputs is within the bounds of the threat model."""
    if inputs is None or bounds is None:
        return
    low, high = (np.asarray(bound, "float64") for bound in bounds)
    # Inputs may leave the bounds by rounding.
    slack = box_slack(bounds, 1e-3)
    if inputs["low"] < np.min(low - slack) or inputs["high"] > np.max(high + slack):
        refuse("report.inputs", f"values in the bounds {short_repr(bounds)}", inputs)


def _check_confidence(fields):
    """Checks that the interval is the Clopper-Pearson interval of the robust accuracy."""
    size = fields["num_examples"]
    # The accuracy is a multiple of 1 / size, up to rounding.
    robust = round(fields["robust_accuracy"] * size)
    own = binomtest(robust, size).proportion_ci(0.95, method="exact")
    if not all(map(_is_near, fields["confidence"], own)):
        expected = f"the exact interval of {robust} of {size} examples, {list(map(float, own))}"
        refuse("report.confidence", expected, fields["confidence"])


def _check_sums(fields):
    """Checks that the queries add up, and that AutoAttack has its first attack."""
    calls = [attack["queries"] for attack in fields["attacks"]]
    if fields["queries"] is not None and None not in calls and fields["queries"] != sum(calls):
        refuse("report.queries", f"the sum over the attacks, {sum(calls)}", fields["queries"])
    names = {attack["name"] for attack in fields["attacks"]}
    if (fields["suite"] or "").startswith("AutoAttack") and "APGD" not in names:
        refuse(
            "report.suite",
            f"None, because the attacks {sorted(names)} lack APGD",
            fields["suite"],
        )


def _is_curve(epsilons, accuracies):
    rises, falls = np.diff(epsilons) > 0, np.diff(accuracies) <= 0
    return len(epsilons) == len(accuracies) >= 1 and rises.all() and falls.all()


def _radius_and_bounds(threat_model):
    """Returns radius and bounds of the threat model, both `None` if its class is unknown."""
    try:
        found = threat_models.from_untrusted_config(
            threat_model["class_name"], threat_model["config"]
        )
        # A class of the user: its code is not in the report, so nothing can be compared.
        return (None, None) if found is None else (decimal_radius(found), found.bounds)
    except ValueError as error:
        raise ValueError(f"{error}, in report.threat_model.config") from error


def _check_radius(threat_model, radius):
    """Checks that `epsilon` is the radius of the threat model, if its class is known."""
    epsilon = np.asarray(threat_model["epsilon"], "float64")
    is_same = radius is None or (
        radius.shape == epsilon.shape and np.allclose(radius, epsilon, rtol=1e-5, atol=0.0)
    )
    if not is_same:
        expected = f"the radius of the config, {reprlib.repr(radius.tolist())}"
        refuse("report.threat_model.epsilon", expected, threat_model["epsilon"])


def _check_attacks(fields):
    """Checks that accuracy falls from attack to attack, down to the robust accuracy."""
    left, size = fields["clean_accuracy"], fields["num_examples"]
    for index, attack in enumerate(fields["attacks"]):
        path, so_far = f"report.attacks[{index}]", attack["accuracy_so_far"]
        if (attack["num_attacked"] or 0) > size:
            refuse(f"{path}.num_attacked", f"at most num_examples {size}", attack["num_attacked"])
        if so_far > left:
            refuse(f"{path}.accuracy_so_far", f"at most {left}, that of the attack before", so_far)
        if attack["accuracy"] is not None and attack["accuracy"] < so_far:
            refuse(f"{path}.accuracy", f"at least accuracy_so_far {so_far}", attack["accuracy"])
        left = so_far
    if fields["attacks"] and not _is_near(fields["robust_accuracy"], left):
        expected = f"accuracy_so_far of the last attack, {left}"
        refuse("report.robust_accuracy", expected, fields["robust_accuracy"])


def _check_proofs(fields):
    """Checks that each certificate ran on what was left, and what all of them proved."""
    proofs, certified = fields.get("certificates"), fields.get("certified_accuracy")
    if proofs is None:
        return
    size, robust = fields["num_examples"], fields["robust_accuracy"]
    left = round(fields["clean_accuracy"] * size)
    for index, proof in enumerate(proofs):
        path, decided = f"report.certificates[{index}]", proof["num_proved"] + proof["num_broken"]
        if proof["num_examples"] != left:
            expected = f"{left}, the examples that were left undecided"
            refuse(f"{path}.num_examples", expected, proof["num_examples"])
        if decided > left:
            refuse(f"{path}.num_proved", f"with num_broken at most {left}", proof["num_proved"])
        left -= decided
    most = sum(proof["num_proved"] for proof in proofs) / size
    # An attack may refute a proof, so that fewer examples count as proved.
    if certified > min(most, robust) + 1e-6:
        expected = f"at most {min(most, robust)}, what is proved and what is robust"
        refuse("report.certified_accuracy", expected, certified)


def _check_classes(fields):
    """Checks that `per_class` and `confusion` agree with the totals of the report."""
    rows, confusion, num_classes = fields["per_class"], fields["confusion"], fields["num_classes"]
    if rows is None and confusion is None and num_classes > _MOST_CLASSES:
        expected = f"at most {_MOST_CLASSES} without per_class and confusion"
        refuse("report.num_classes", expected, num_classes)
    if rows is not None:
        _check_rows(rows, fields)
    if confusion is not None:
        _check_confusion(confusion, rows, fields)


def _check_rows(rows, fields):
    """Checks `per_class`: one row for each class in order, and their weighted means."""
    num_classes, size = fields["num_classes"], fields["num_examples"]
    if len(rows) != num_classes or any(row["class"] != place for place, row in enumerate(rows)):
        refuse("report.per_class", f"a row for each of {num_classes} classes in order", rows)
    if sum(row["num_examples"] for row in rows) != size:
        refuse("report.per_class", f"rows that sum to num_examples {size}", rows)
    for name in ("clean_accuracy", "robust_accuracy"):
        _check_mean(rows, name, fields[name], size)


def _check_mean(rows, name, total, size):
    """Checks that an accuracy of the report is the mean of the accuracies of the classes."""
    if any((row[name] is None) != (row["num_examples"] == 0) for row in rows):
        refuse("report.per_class", f"a {name} for each class with examples", rows)
    mean = sum((row[name] or 0.0) * row["num_examples"] for row in rows) / size
    if not _is_near(mean, total):
        refuse(f"report.{name}", f"the mean over the classes, {mean}", total)


def _check_confusion(confusion, rows, fields):
    """Checks the shape and the sums of `confusion`."""
    num_classes, size = fields["num_classes"], fields["num_examples"]
    if {len(confusion), *map(len, confusion)} != {num_classes}:
        refuse("report.confusion", f"{num_classes} rows of {num_classes} counts", confusion)
    totals = [sum(row) for row in confusion]
    if sum(totals) != size:
        refuse("report.confusion", f"counts that sum to num_examples {size}", confusion)
    if rows is not None and totals != [row["num_examples"] for row in rows]:
        refuse("report.confusion", "rows that sum to the num_examples of per_class", confusion)


def _is_near(one, other):
    return abs(one - other) <= 1e-6
