"""A feature whose bounds are the same number twice cannot change, and disturbs nothing."""

import functools

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import cases
from tests.support import refusals
from tests.support import tiers

LOW = np.array([0.0, -1.0, 0.25, 0.0, 0.0], "float32")
HIGH = np.array([1.0, 1.0, 0.25, 2.0, 1.0], "float32")
CONSTANT = 2
BALLS = {
    "L2": kr.L2(0.7, (LOW, HIGH)),
    "Linf": kr.Linf(0.4, (LOW, HIGH)),
    "L1": kr.L1(1.0, (LOW, HIGH)),
    "L0": kr.threat_models.L0(3, (LOW, HIGH)),
}
WEIGHTS = np.random.default_rng(4).normal(size=(5, 3)).astype("float32")
WEIGHTS[CONSTANT] *= 9.0  # The attacker would like to change it.


def model(x):
    return x @ WEIGHTS


def data(count=6):
    x = LOW + (HIGH - LOW) * np.random.default_rng(1).uniform(size=(count, 5))
    x = x.astype("float32")
    return x, np.argmax(x @ WEIGHTS, axis=-1)


@pytest.mark.parametrize("name", BALLS)
def test_no_point_of_a_ball_changes_it(name):
    x, _ = data()
    ball, seed = BALLS[name], np.array([1, 2], "int32")
    direction = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    points = [
        ball.project(x + direction, x),
        ball.random_start(x, seed),
        ball.random_start_on_sphere(x, seed),
        ball.linear_maximization_oracle(direction, x),
        ball.project(ball.step(x, direction, 0.5), x),
    ]
    if name != "L0":
        change = np.linspace(-1.0, 1.0, len(x), dtype="float32")
        points.append(x + ball.project_onto_hyperplane(x, direction, change))
    for point in map(np.asarray, points):
        assert np.isfinite(point).all() and np.all(point[:, CONSTANT] == 0.25)
        assert np.any(point != x)


PAIRS = [
    (attack, ball)
    for attack in cases.ATTACKS
    for ball in cases.ONLY.get(attack, ("L2", "L1", "Linf"))
    if attack != "VirtualAdversarial"
]


@tiers.parametrize(
    ("attack", "ball"),
    PAIRS,
    one_for=lambda attack, _: attack in ("CarliniWagner", "FMN", "PGD") and attack,
)
def test_attacks_find_mistakes_without_it(attack, ball):
    x, y = data()
    found = cases.ATTACKS[attack].run(model, x, y, BALLS[ball])
    assert np.isfinite(found.x_adv).all()
    np.testing.assert_array_equal(found.x_adv[:, CONSTANT], 0.25)
    assert np.any(found.x_adv != x)
    wrong = np.argmax(found.x_adv @ WEIGHTS, axis=-1) != y
    np.testing.assert_array_equal(found.success, wrong)


def test_certificates_do_not_fear_it():
    x, y = data()
    bounds = (LOW, HIGH)
    linear = kr.certify(model, (x, y), "linear", norm="Linf", bounds=bounds)
    without = np.delete(np.arange(5), CONSTANT)
    # The same model, of which the feature is a part of the bias.
    bias = 0.25 * WEIGHTS[CONSTANT]
    expected = kr.certify(
        lambda part: part @ WEIGHTS[without] + bias,
        (x[:, without], y),
        "linear",
        norm="Linf",
        bounds=(LOW[without], HIGH[without]),
    )
    np.testing.assert_allclose(linear.radii, expected.radii, rtol=1e-5)


@pytest.mark.exhaustive
def test_training_and_evaluation_with_it():
    x, y = data(32)
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    for objective in ("adversarial", "ibp"):
        training = kr.AdvTrain(BALLS["Linf"], objective=objective, warmup=0)
        logs = network.fit(x, y, verbose=0, callbacks=[training]).history
        assert np.isfinite(logs["loss"]).all()
    report = kr.evaluate(network, (x, y), BALLS["Linf"], attacks="standard")
    assert report.robust_accuracy <= report.clean_accuracy
    assert (len(report.attacks), report.num_examples) == (5, 32)


def test_layers_take_such_bounds():
    x, _ = data()
    guard = kr.layers.InputGuard((LOW, HIGH))
    np.testing.assert_array_equal(guard(x), x)
    depth = kr.layers.BitDepth(8, bounds=(LOW, HIGH))
    found = models.Classifier(depth)(keras.ops.convert_to_tensor(x))
    np.testing.assert_allclose(found, x, rtol=0, atol=2.0 / 255)
    np.testing.assert_array_equal(np.asarray(found)[:, CONSTANT], 0.25)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0.5, 0.5), "low < high"),
        ((np.full(3, 0.5), np.full(3, 0.5)), "low == high for some features"),
        ((np.array([0.0, 0.6]), np.array([1.0, 0.5])), "low < high"),
        ((np.zeros(3), np.ones(2)), "broadcast together"),
        ((np.array([0.0, np.nan]), 1.0), "low < high"),
    ],
)
def test_bounds_that_are_no_box(bounds, message):
    make, message = functools.partial(kr.L2, 0.5), f"{message}.*Received: bounds="
    refusals.assert_argument_refused(make, message, bounds=bounds)


def test_long_arrays_are_not_printed():
    low = np.zeros((32, 32, 3), "float32")
    high = np.linspace(-1.0, 1.0, low.size, dtype="float32").reshape(low.shape)
    for broken in ((low, high), (low.tolist(), high.tolist())):
        with pytest.raises(ValueError, match=r"32, 32, 3\).* from -1 to 1>") as told:
            kr.L2(0.5, broken)
        assert len(str(told.value)) < 400
    ball = kr.Linf(0.1 + 0.0 * low, (low, 1.0 + low))
    assert len(repr(ball)) < 300
    with pytest.raises(ValueError, match="must lie in the bounds") as told:
        kr.attacks.FGSM()(model, low[None] + 2.0, np.array([0]), ball)
    assert len(str(told.value)) < 500
