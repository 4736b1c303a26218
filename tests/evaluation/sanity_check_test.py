import functools
import sys

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.cache import AttackCache
from tests.support import refusals
from tests.support import told

BALL = kr.Linf(0.1)
X = np.random.default_rng(0).uniform(size=(32, 2)).astype("float32")
Y = (X[:, 0] > 0.5).astype("int64")
WITHIN = np.abs(X[:, 0] - 0.5) < 0.1
NAMES = [
    "clean accuracy",
    "deterministic outputs",
    "logits",
    "input bounds",
    "size of epsilon",
    "stable outputs",
    "gradients",
    "epsilon 0",
    "reported success",
    "iterative beats one-step",
    "one step is not enough",
    "loss choice",
    "convergence",
    "monotone in epsilon",
    "unbounded attack",
    "random noise",
    "black box",
    "transfer",
]


def linear(x):
    return 10.0 * told.model(x)


@pytest.fixture
def _few_steps(monkeypatch):
    module = sys.modules["keras_robust.evaluation.sanity_check"]
    monkeypatch.setattr(module, "AttackCache", functools.partial(AttackCache, num_steps=3))
    monkeypatch.setattr(module, "_RANDOM_QUERIES", 60)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_few_steps")
def test_an_honest_model_passes_all():
    surrogate = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    surrogate.set_weights([np.array([[-10.0, 10.0], [0.0, 0.0]]), np.array([5.0, -5.0])])
    report = kr.sanity_check(linear, (X, Y), BALL, surrogate=surrogate)
    assert [check.name for check in report.checks] == NAMES
    assert {(check.verdict, check.advice) for check in report.checks} == {("passed", "")}
    assert isinstance(report, kr.evaluation.SanityReport)
    documented = kr.sanity_check.__doc__.split("|---|---|")[1].split("\n\n")[0]
    assert [row.split("|")[1].strip() for row in documented.strip().splitlines()] == NAMES


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_few_steps")
def test_masked_gradients_fail_several_checks():
    report = kr.sanity_check(told.reversed_model, (X, Y), BALL)
    names = {check.name for check in report.failed}
    assert names == {"unbounded attack", "random noise", "black box"}
    # Square breaks what random starts did not break by chance.
    assert 0.0 < report["black box"].value <= WITHIN.mean()
    assert report["transfer"].verdict == "skipped"


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_few_steps")
def test_a_random_model():
    report = kr.sanity_check(told.random_model, (X, Y), BALL)
    names = {check.name for check in report.failed}
    assert names >= {"deterministic outputs", "stable outputs", "epsilon 0", "reported success"}


@pytest.mark.exhaustive
def test_a_model_without_gradients_and_inputs_in_other_units():
    def answers(x):
        return keras.ops.one_hot(keras.ops.argmax(linear(x), axis=-1), 2)

    report = kr.sanity_check(answers, (X, Y), kr.Linf(25.5, bounds=(0, 255)))
    assert [check.name for check in report.checks] == [*NAMES[:7], *NAMES[-3:]]
    names = [check.name for check in report.failed]
    # One-hot rows sum to 1, as probabilities do, and random noise finds mistakes in the ball.
    expected = ["logits", "input bounds", "stable outputs", "gradients"]
    assert names == [*expected, "random noise", "black box"]
    assert report["input bounds"].value == pytest.approx((X.max() - X.min()) / 255)
    assert report["gradients"].value == 1.0
    assert "no gradient" in report["gradients"].advice


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_few_steps")
def test_several_inputs_skip_the_checks_that_need_one_norm():
    def network(x):
        return linear(keras.ops.stack([x["a"], x["b"]], axis=-1))

    data = ({"a": X[:, 0], "b": X[:, 1]}, Y)
    report = kr.sanity_check(network, data, {"a": kr.Linf(0.1)})
    assert report.failed == []
    skipped = [check.name for check in report.checks if check.verdict == "skipped"]
    assert skipped == [NAMES[3], NAMES[5], "unbounded attack", "black box", "transfer"]


@pytest.mark.usefixtures("_few_steps")
def test_num_examples_limits_the_examples():
    seen = []

    def predict(x):
        seen.append(len(x))
        return np.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=-1)

    network = kr.evaluation.BlackBox(predict, 2)
    report = kr.sanity_check(network, (X, Y), BALL, num_examples=5, batch_size=2)
    assert max(seen) == 2 and seen[:3] == [2, 2, 1]
    # A black box has no gradient attacks to compare with.
    verdicts = [report[name].verdict for name in ("gradients", "random noise", "black box")]
    assert verdicts == ["skipped"] * 3


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"data": (X[:0], Y[:0])}, r"Received: x of shape \(0, 2\)"),
        ({"data": (X, Y + 1)}, "class indices from 0 to 1, as.*Received: labels from 1 to 2"),
        ({"data": (255 * X, Y)}, "lie in the bounds"),
        ({"model": lambda x: x * np.nan}, "NaN or infinite.*Received: 32 such examples"),
        ({"threat_model": "l3"}, "Unknown threat model"),
        ({"num_examples": 0}, "`num_examples` must be an int >= 1. Received: 0"),
        ({"surrogate": 3}, "`surrogate` must be a keras.Model"),
    ],
)
def test_wrong_arguments(arguments, message):
    # The error comes before the first attack.
    arguments = {"model": linear, "data": (X, Y), "threat_model": BALL, **arguments}
    with refusals.assert_refused(message):
        kr.sanity_check(**arguments)
