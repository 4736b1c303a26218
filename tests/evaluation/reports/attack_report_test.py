import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.reports.attack_report import AttackReport
from keras_robust.evaluation.reports.attack_report import label


@pytest.mark.parametrize(
    "settings,expected",
    [
        ({}, "Name"),
        ({"num_steps": 1, "num_restarts": 1, "loss": None}, "Name"),
        ({"num_steps": 20}, "Name-20"),
        ({"num_steps": 20, "num_restarts": 3, "loss": "dlr"}, "Name-20x3 dlr"),
        ({"num_steps": 20, "num_targets": 9, "num_restarts": 1}, "Name-20x9"),
    ],
)
def test_labels_show_the_strength_of_an_attack(settings, expected):
    assert label("Name", settings) == expected
    assert AttackReport("Name", settings, 0.5, 0.5, 0.0, 1.0).label == expected


def test_reports_of_an_attack_have_settings_that_json_can_hold():
    def my_loss(y, logits):
        return kr.losses.margin(y, logits)

    attack = kr.attacks.PGD(num_steps=3, loss=my_loss)
    report = AttackReport.of(attack, accuracy_so_far=0.25, queries=8)
    assert report.name == "PGD"
    assert report.settings == {**attack.get_config(), "loss": "my_loss"}
    assert (report.accuracy, report.accuracy_so_far, report.queries) == (None, 0.25, 8)


def test_equality_ignores_the_array():
    one, other = (
        AttackReport("PGD", {}, 0.5, 0.5, 0.0, 1.0, robust=robust) for robust in (None, np.ones(3))
    )
    assert one == other
    assert one.to_dict() == other.to_dict()
    assert "robust" not in one.to_dict()
    assert one != AttackReport("PGD", {}, 0.5, 0.5, 0.0, 1.0, queries=3)
