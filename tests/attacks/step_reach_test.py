import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.step_reach import step_size_complaint
from tests.support import linear_fit

X, Y = linear_fit.data(24)
SMALL = "2 of them lead 0.0156.* at most, and epsilon is 16.*Received: step_size=0.0078"


def test_reports_steps_that_cover_less_than_half_of_the_radius():
    assert (
        step_size_complaint(kr.attacks.PGD(num_steps=10, step_size=0.1), kr.Linf(2, bounds=None))
        is None
    )
    assert "lead 0.9 " in step_size_complaint(
        kr.attacks.PGD(num_steps=9, step_size=0.1), kr.L2(2, bounds=None)
    )
    assert step_size_complaint(kr.attacks.PGD(), kr.Linf(2, bounds=None)) is None
    assert step_size_complaint(kr.attacks.FGSM(), kr.Linf(2, bounds=None)) is None
    assert step_size_complaint(kr.attacks.Square(), kr.Linf(2, bounds=None)) is None


def test_fractions_and_shares_of_a_radius_count():
    attack = kr.attacks.PGD(num_steps=2, step_size="1/10")
    assert step_size_complaint(attack, kr.Linf(0.4)) is None
    assert "lead 0.2 " in step_size_complaint(attack, kr.Linf(0.5))
    parts = kr.threat_models.PerInput({"a": kr.Linf(0.01)})
    assert "epsilon is 1." in step_size_complaint(attack, parts)


def test_training_validation_and_evaluation_report_it():
    x, ball = X * 255, kr.Linf(16, bounds=(0, 255))
    model = linear_fit.make_model()
    attack = kr.attacks.PGD(num_steps=2, step_size=2 / 255)
    with pytest.warns(UserWarning, match=SMALL):
        model.fit(x, Y, verbose=0, callbacks=[kr.AdvTrain(ball, attack=attack, warmup=0)])
    with pytest.warns(UserWarning, match=SMALL):
        kr.RobustValidation((x, Y), ball, attack=attack)
    report = kr.evaluate(model, (x, Y), ball, attack, minimum_norm=None)
    assert [text for text in report.warnings if "steps of PGD are too small" in text]
    assert np.abs(report.x_adv - x).max() <= 16.001
