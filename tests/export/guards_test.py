import dataclasses

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.export.guards import choose_guards
from keras_robust.export.guards import guards_within
from keras_robust.export.guards import warn_without_bounds
from keras_robust.export.inputs import Inputs
from keras_robust.layers import InputGuard
from tests.support import refusals
from tests.support import tiers

X = np.eye(3, dtype="float32")


def report_for(threat_model):
    return kr.evaluate(lambda x: x, (X, np.arange(3)), threat_model, "fgsm", minimum_norm=None)


def model(*layers):
    return keras.Sequential([keras.Input((3,), name="x"), *layers, keras.layers.Dense(3)])


def choose(network, guard="auto", report=None):
    return choose_guards(network, Inputs(network), guard, report)


@tiers.parametrize("bounds", [(-1.0, 2.0), None, ([0.0, -1.0, -2.0], 3.0)])
def test_the_bounds_of_the_report(bounds):
    report = report_for(kr.Linf(0.1, bounds=bounds))
    reports = [report, kr.RobustnessReport.from_dict(report.to_dict())]
    for one in reports:
        (guard,) = choose(model(), report=one)
        expected = InputGuard(bounds).get_config()
        assert guard.get_config()["bounds"] == expected["bounds"]
        assert (guard.outside, guard.non_finite) == ("reject", "reject")


WITHOUT = "Without a report the range of valid inputs is unknown.*InputGuard"


def test_without_a_report_no_bounds_and_a_warning():
    (guard,) = choose(model())
    assert (guard.bounds, guard.non_finite) == (None, "reject")
    with refusals.assert_warned_once(WITHOUT):
        warn_without_bounds([guard], "auto", None)
    # No warning: `guard` was set, the report has bounds, or no input has a guard.
    warn_without_bounds([guard], guard, None)
    warn_without_bounds([guard], "auto", report_for("linf"))
    warn_without_bounds([None], "auto", None)


def test_no_second_guard():
    guarded = model(InputGuard((0, 2)))
    assert choose(guarded) == [None]
    assert [guard.bounds for guard in guards_within(guarded)] == [(0.0, 2.0)]
    own = InputGuard((0, 3))
    assert choose(guarded, own) == [own]
    assert guards_within(model()) == []


def test_explicit_guards():
    own = InputGuard((0, 3))
    assert choose(model(), own) == choose(model(), {"x": own}) == [own]
    assert choose(model(), None) == choose(model(), {}) == [None]


def test_integers_have_no_guard():
    tensors = [keras.Input((3,), name="x"), keras.Input((1,), name="n", dtype="int32")]
    network = keras.Model(tensors, keras.layers.Dense(3)(tensors[0]))
    assert [guard is None for guard in choose(network)] == [False, True]
    assert [guard is None for guard in choose(network, InputGuard())] == [False, True]


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ("automatic", "must be \"auto\", an InputGuard.*Received: guard='automatic'"),
        ({"y": InputGuard()}, r"for some of the inputs \['x'\]"),
        ({"x": "clip"}, r"for some of the inputs \['x'\]"),
    ],
)
def test_other_guards(guard, message):
    with pytest.raises(ValueError, match=message):
        choose(model(), guard)


def test_an_unknown_threat_model_is_refused():
    report = report_for("linf")
    plain = {**report.threat_model, "class_name": "Other"}
    for name in ("Other", "PGD", "linf"):
        plain["class_name"] = name
        with pytest.raises(ValueError, match=f"threat model {name} .* is unknown.*pass `guard`"):
            choose(model(), report=dataclasses.replace(report, threat_model=plain))
    plain = {**report.threat_model, "config": {"epsilon": 0.1, "step": 1}}
    with pytest.raises(ValueError, match="Expected the arguments of Linf. Received: .*step"):
        choose(model(), report=dataclasses.replace(report, threat_model=plain))


def test_noise_in_front_of_a_guard_needs_another_guard():
    clip = InputGuard((0, 2), outside="clip")
    smoothed = kr.layers.RandomizedSmoothing(model(clip))
    (guard,) = choose(smoothed, report=report_for(kr.Linf(0.1, bounds=(-1, 2))))
    assert guard.bounds == (-1.0, 2.0)
