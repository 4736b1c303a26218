import json

import pytest

from keras_robust.evaluation.reports import consistency
from tests.support import refusals
from tests.support import reports


def plain():
    return json.loads(json.dumps(reports.make_with_proofs().to_dict()))


def changed(path, value):
    """Returns the report with another value at a path such as `attacks.0.accuracy`."""
    found = plain()
    inner = found
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return found


def test_reports_with_and_without_optional_fields():
    consistency.check_consistency(plain())
    bare = {"curve": None, "per_class": None, "confusion": None, "inputs": None, "suite": None}
    consistency.check_consistency({**plain(), **bare, "queries": None, "attacks": []})


@pytest.mark.parametrize(
    "path,value,message",
    [
        ("certificates.0.num_examples", 4, r"certificates\[0\].num_examples to be 5, the examples"),
        ("certificates.1.num_examples", 5, r"certificates\[1\].num_examples to be 3, the examples"),
        ("certificates.1.num_proved", 4, r"certificates\[1\].num_proved to be with .* at most 3"),
        ("certified_accuracy", 0.2, "certified_accuracy to be at most 0.16666666666666666,"),
        ("certificates", [], "certified_accuracy to be at most 0.0"),
        ("confidence", [0.9, 0.1], "the lower end and then the upper end"),
        ("robust_accuracy", 0.9, "at most the clean accuracy 0.8333333333333334"),
        ("num_examples", 5, r"attacks\[0\].num_attacked to be at most num_examples 5. Received"),
        ("per_class", [], "a row for each of 3 classes in order"),
        ("confusion", [[1, 2], [3, 4]], "3 rows of 3 counts"),
        ("confusion", [[1, 2, 3], [3, 4], [1, 2, 3]], "3 rows of 3 counts"),
        ("curve.epsilons", [0.0, 0.03], "ascending epsilons"),
        ("curve.epsilons", [0.0, 0.03, 0.03], "ascending epsilons"),
        ("curve.robust_accuracy", [0.9, 0.5, 0.6], "that never rises"),
        ("threat_model.epsilon", 0.9, "epsilon to be the radius of the config, 0.03137255"),
        ("threat_model.epsilon", [0.0313725], "epsilon to be the radius of the config"),
        (
            "threat_model.config.epsilon",
            "0.9",
            "epsilon to be the radius of the config, 0.9. Recei",
        ),
        (
            "confidence",
            [0.9, 1.0],
            "confidence to be an interval around the robust accuracy 0.3333333333333333",
        ),
        ("confidence", [0.0, 1.0], "the exact interval of 2 of 6 examples, .0.0432"),
        ("queries", 1, "queries to be the sum over the attacks, 2412. Received: report.queries=1"),
        ("suite", "AutoAttack standard", r"None, because the attacks .'FGSM', 'PGD'. lack APGD"),
        ("threat_model.config.bounds", [5, 6], "inputs to be values in the bounds .5.0, 6.0"),
        ("robust_accuracy", 0.5, "accuracy_so_far of the last attack, 0.3333333333333333"),
        (
            "clean_accuracy",
            0.9,
            "clean_accuracy to be the mean over the classes, 0.8333333333333334",
        ),
        (
            "attacks.0.accuracy_so_far",
            0.9,
            "at most 0.8333333333333334, that of the attack before. Received",
        ),
        ("attacks.1.accuracy_so_far", 0.6, "at most 0.5, that of the attack before. Received"),
        ("attacks.0.accuracy", 0.4, "accuracy to be at least accuracy_so_far 0.5"),
        ("per_class.0.num_examples", 3, "per_class to be rows that sum to num_examples 6"),
        ("per_class.0.clean_accuracy", None, "a clean_accuracy for each class with examples"),
        ("per_class.2.robust_accuracy", 0.5, "a robust_accuracy for each class with examples"),
        (
            "per_class.0.robust_accuracy",
            0.0,
            "robust_accuracy to be the mean over the classes, 0.16666666666666666",
        ),
        ("confusion.0", [1, 1, 1], "confusion to be counts that sum to num_examples 6"),
        ("confusion", [[1, 0, 0], [4, 1, 0], [0, 0, 0]], "sum to the num_examples of per_cl"),
    ],
)
def test_fields_that_contradict_others(path, value, message):
    with refusals.assert_refused(message):
        consistency.check_consistency(changed(path, value))


@pytest.mark.parametrize(
    "path,value,message",
    [
        ("threat_model.config.epsilon", "many", "Expected the arguments of Linf. .*'many'"),
        ("threat_model.config.bounds", [1, 0], "Expected the arguments of Linf. .*low < high"),
        ("threat_model.config.other", 3, "Expected the arguments of Linf. .*`other`"),
        ("threat_model.config.epsilon", {"class_name": "Popen"}, "Received: the class 'Popen'"),
    ],
)
def test_arguments_that_the_threat_model_refuses(path, value, message):
    # The error of the threat model is within that of the report: each says what it received.
    with refusals.assert_refused(message, times=2):
        consistency.check_consistency(changed(path, value))


def test_epsilon_may_be_one_number_per_feature():
    found = changed("threat_model.epsilon", [[0.1, 0.2], [0.3, 0]])
    found["threat_model"]["config"]["epsilon"] = [[0.1, 0.2], [0.3, 0]]
    consistency.check_consistency(found)
    found["threat_model"]["epsilon"][1][1] = 0.4
    message = r"epsilon to be the radius of the config.*Received: .*\[\[0.1, 0.2\], \[0.3, 0.4\]\]"
    with refusals.assert_refused(message):
        consistency.check_consistency(found)


def test_a_huge_number_of_classes_is_refused_at_once(monkeypatch):
    def count(*limits):
        raise AssertionError(f"counts to {limits}")

    found = changed("num_classes", 10**12)
    monkeypatch.setattr(consistency, "range", count, raising=False)
    with refusals.assert_refused("a row for each of 1000000000000 classes"):
        consistency.check_consistency(found)
    with refusals.assert_refused("1000000000000 rows of 1000000000000 counts"):
        consistency.check_consistency({**found, "per_class": None})
    with refusals.assert_refused("num_classes to be at most 100000 without per_class and"):
        consistency.check_consistency({**found, "per_class": None, "confusion": None})
    few = {**plain(), "num_classes": 100_000, "per_class": None, "confusion": None}
    consistency.check_consistency(few)


def test_a_custom_threat_model_may_have_any_arguments():
    own = {"class_name": "Wasserstein", "config": {"epsilon": "much"}, "epsilon": 0.3}
    consistency.check_consistency({**plain(), "threat_model": own})
