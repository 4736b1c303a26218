import keras
import numpy as np
import pytest
from keras import ops

import keras_robust as kr
from keras_robust.evaluation.cache import AttackCache
from keras_robust.evaluation.checks import attack_checks
from tests.support import backends
from tests.support import told
from tests.support.binomial import allowed_share

BALL = kr.Linf(0.1)
SIZE = 64
X = np.random.default_rng(0).uniform(size=(SIZE, 2)).astype("float32")
Y = (X[:, 0] > 0.5).astype("int64")
WITHIN = np.abs(X[:, 0] - 0.5) < 0.1


def linear(x):
    return 10.0 * told.model(x)


def landscape(margin):
    """A model around 0.5 that predicts class 0 if `margin` of the offset in radii is negative."""

    def network(x):
        wrong = margin((x[:, 0] - 0.5) / 0.1)
        return ops.stack([0.0 * wrong, wrong], axis=-1)

    return network


def bump(place, width):
    """A margin that is largest at one place."""
    return landscape(lambda way: -1.0 + 2.0 * ops.exp(-(((way - place) / width) ** 2)))


def _cache(network, x=X, y=Y, ball=BALL, num_steps=4):
    logits = np.asarray(network(x))
    return AttackCache(network, x, y, ball, logits, batch_size=SIZE, seed=0, num_steps=num_steps)


def _at_half(network, num_steps=4):
    """A cache of examples that differ in an unused feature, and so in their random starts."""
    x = np.full((SIZE, 2), 0.5, "float32")
    return _cache(network, x, np.zeros(SIZE, "int64"), num_steps=num_steps)


@pytest.fixture(scope="module")
def honest():
    return _cache(linear)


@pytest.fixture(scope="module")
def masked():
    return _cache(told.reversed_model)


def _passed(check, name, value, tolerated):
    assert (check.name, check.verdict, check.advice) == (name, "passed", "")
    assert check.value == pytest.approx(value)
    assert check.threshold == allowed_share(tolerated, SIZE)


def _failed(check, name, value, tolerated, advice):
    assert (check.name, check.verdict) == (name, "failed")
    assert check.value == pytest.approx(value)
    assert check.threshold == allowed_share(tolerated, SIZE)
    assert advice in check.advice


def test_stable_outputs():
    x = np.where(X > 0.5, 0.75, 0.25).astype("float32")
    check = attack_checks.check_stability(_cache(linear, x=x))
    assert check.name == "stable outputs" and check.verdict == "passed" and check.advice == ""
    # The noise is at most a thousandth, and half of that on average.
    assert check.value == pytest.approx(0.0005 / 0.25, rel=0.3)
    assert check.threshold == 0.1

    def jumping(x):
        # Randomly returns one of two orthogonal outputs.
        heads = ops.cast(ops.sin(1e6 * x[:, 0]) > 0.0, "float32")
        return ops.stack([heads, 1.0 - heads], axis=-1)

    # The half that changes moves by the square root of 2, which is clipped to 1.
    check = attack_checks.check_stability(_cache(jumping))
    assert check.verdict == "failed" and check.value == pytest.approx(0.5, abs=0.2)
    assert "jump under tiny noise" in check.advice


# XLA leaves rounding errors in the gradient of a softmax that is saturated.
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "saturated",
    [
        lambda x: ops.clip(x, -1.0, 1.0),
        pytest.param(
            ops.softmax,
            marks=backends.tensorflow_only("the gradient of a saturated softmax is not quite zero"),
        ),
    ],
)
def test_gradients(saturated):
    cache = _cache(lambda x: saturated(1e6 * linear(x)), num_steps=1)
    check = attack_checks.gradient_checks(cache)[0]
    _failed(check, "gradients", 1.0, 0.01, "zero or NaN on 100.0% of the examples")


def test_no_gradients():
    only = attack_checks.gradient_checks(_cache(lambda x: ops.stop_gradient(linear(x))))
    assert [check.name for check in only] == ["gradients"]
    check = only[0]
    assert (check.value, check.threshold, check.verdict) == (1.0, 0.01, "failed")
    assert "no gradient with respect to its input" in check.advice


@pytest.mark.exhaustive
def test_all_checks_on_a_linear_model(honest):
    checks = {check.name: check for check in attack_checks.gradient_checks(honest)}
    assert list(checks) == [
        "gradients",
        "epsilon 0",
        "reported success",
        "iterative beats one-step",
        "one step is not enough",
        "loss choice",
        "convergence",
        "monotone in epsilon",
        "unbounded attack",
    ]
    _passed(checks["gradients"], "gradients", 0.0, 0.01)
    _passed(checks["epsilon 0"], "epsilon 0", 0.0, 0.002)
    _passed(checks["reported success"], "reported success", 0.0, 0.002)
    _passed(checks["iterative beats one-step"], "iterative beats one-step", 0.0, 0.005)
    _passed(checks["one step is not enough"], "one step is not enough", 0.0, 0.25)
    _passed(checks["loss choice"], "loss choice", 0.0, 0.03)
    _passed(checks["convergence"], "convergence", 0.0, 0.01)
    # Fewer examples stay robust in balls of a half, one and two radii.
    left = [np.mean(np.abs(X[:, 0] - 0.5) >= radius) for radius in (0.05, 0.1, 0.2)]
    rise = max(left[1] - left[0], left[2] - left[1])
    _passed(checks["monotone in epsilon"], "monotone in epsilon", rise, 0.01)
    _passed(checks["unbounded attack"], "unbounded attack", 0.0, 0.01)


@pytest.mark.exhaustive
def test_random_models():
    cache = _cache(told.random_model)
    check = attack_checks.check_epsilon_zero(cache)
    assert check.name == "epsilon 0" and check.verdict == "failed" and check.value > 0.1
    assert "whether the model is random" in check.advice
    check = attack_checks.check_reported_success(cache)
    assert check.name == "reported success" and check.verdict == "failed" and check.value > 0.1
    assert "disagrees with the attack" in check.advice


@pytest.mark.exhaustive
def test_one_step_that_breaks_more_than_many():
    # The gradient leads to a small local maximum; the mistake is at the border of the ball.
    network = landscape(lambda way: -1.0 + 0.5 * ops.sin(6.0 * way) + 30.0 * ops.relu(way - 0.9))
    cache = _at_half(network, num_steps=20)
    one_step, many = (cache.accuracy(attack) for attack in (_fgsm(), cache.pgd("cross_entropy")))
    assert one_step == 0.0 and many > 0.5
    check = attack_checks.check_one_step(cache)
    _failed(
        check, "iterative beats one-step", many, 0.005, "One step breaks more examples than many"
    )
    _passed(attack_checks.check_overfitting(cache), "one step is not enough", -many, 0.25)


@pytest.mark.exhaustive
def test_many_steps_that_break_far_more_than_one():
    # The mistake is inside the ball, and one full step leaps over it.
    cache = _at_half(bump(0.5, 0.4), num_steps=20)
    check = attack_checks.check_overfitting(cache)
    left = cache.accuracy(cache.pgd("cross_entropy"))
    assert cache.accuracy(_fgsm()) == 1.0 and left < 0.5
    _failed(check, "one step is not enough", 1.0 - left, 0.25, "resists one step")
    _passed(attack_checks.check_one_step(cache), "iterative beats one-step", left - 1.0, 0.005)


def _fgsm():
    return kr.attacks.FGSM(loss="cross_entropy")


@pytest.mark.exhaustive
def test_a_cross_entropy_that_saturates():
    cache = _cache(lambda x: 1e5 * linear(x))
    has_zero_gradient = cache.accuracy(cache.pgd("cross_entropy"))
    assert cache.accuracy(cache.pgd("margin")) == np.mean(~WITHIN)
    value = has_zero_gradient - np.mean(~WITHIN)
    check = attack_checks.check_loss(cache)
    _failed(check, "loss choice", value, 0.03, "with the cross-entropy alone")


@pytest.mark.exhaustive
def test_more_steps_that_break_more():
    # From most starts two steps of 1.25 radii leap over the mistake, but four half steps do not.
    cache = _at_half(bump(0.4, 0.15), num_steps=2)
    few, more = (cache.accuracy(cache.pgd("margin", times)) for times in (1, 2))
    assert few > more
    check = attack_checks.check_convergence(cache)
    _failed(check, "convergence", few - more, 0.01, "4 steps break more examples than 2")


@pytest.mark.exhaustive
def test_larger_balls_that_leave_more():
    # In a larger ball the steps are longer, so points of the path are rarely near the mistake.
    cache = _at_half(bump(0.2, 0.15), num_steps=2)
    ball = cache.threat_model
    left = [cache.accuracy(cache.pgd("margin"), ball.scaled(factor)) for factor in (0.5, 1.0, 2.0)]
    check = attack_checks.check_monotone(cache)
    rise = max(left[1] - left[0], left[2] - left[1])
    assert rise > 0.01
    _failed(check, "monotone in epsilon", rise, 0.01, "A larger ball leaves more")


@pytest.mark.exhaustive
def test_an_attack_that_fails_in_the_whole_box(masked):
    check = attack_checks.check_unbounded(masked)
    assert check.name == "unbounded attack" and check.verdict == "failed"
    assert check.threshold == allowed_share(0.01, SIZE)
    assert check.value > 0.2 and f"{check.value:.1%} of the examples stay robust" in check.advice


@pytest.mark.parametrize("ball", [kr.Linf(0.1, None), kr.Linf(0.1, (0.0, np.inf))])
def test_the_unbounded_attack_needs_a_box(ball):
    check = attack_checks.check_unbounded(_cache(linear, ball=ball))
    assert check.verdict == "skipped" and "and finite bounds" in check.advice


def test_stable_outputs_are_not_checked_in_l0():
    check = attack_checks.check_stability(_cache(linear, ball=kr.threat_models.L0(1)))
    assert (check.name, check.verdict) == ("stable outputs", "skipped")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name,attack,label",
    [
        ("random noise", kr.attacks.RandomNoise(num_samples=100), "RandomNoise"),
        ("black box", kr.attacks.Square(num_queries=100), "Square margin breaks"),
    ],
)
def test_attacks_without_gradients_that_beat_gradient_attacks(honest, masked, name, attack, label):
    left = masked.white_box()
    assert left.mean() > np.mean(~WITHIN)
    beaten = np.mean(left & WITHIN & masked.found(attack).success)
    check = attack_checks.check_beaten(masked, name, attack, 0.01)
    _failed(check, name, beaten, 0.01, label)
    assert beaten > 0.03
    _passed(attack_checks.check_beaten(honest, name, attack, 0.01), name, 0.0, 0.01)


def test_without_gradients_all_correct_examples_are_left():
    attack = kr.attacks.Square(num_queries=100)
    cache = _cache(lambda x: ops.stop_gradient(linear(x)))
    check = attack_checks.check_beaten(cache, "black box", attack, 0.01)
    _failed(check, "black box", np.mean(WITHIN), 0.01, "masked gradients")


@pytest.mark.exhaustive
def test_an_attack_that_does_not_support_the_model_is_skipped():
    cache = _cache(linear, ball=kr.threat_models.L0(1))
    check = attack_checks.check_beaten(cache, "black box", kr.attacks.Square(), 0.01)
    assert (check.verdict, check.value) == ("skipped", None)
    assert "L0" in check.advice


@pytest.mark.exhaustive
def test_transfer(honest, masked):
    surrogate = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    surrogate.set_weights([np.array([[-10.0, 10.0], [0.0, 0.0]]), np.array([5.0, -5.0])])
    transfer = kr.attacks.Transfer(surrogate, kr.attacks.PGD(num_steps=4, loss="margin"))
    check = attack_checks.check_transfer(masked, transfer)
    _failed(check, "transfer", np.mean(masked.white_box() & WITHIN), 0.01, "Transfer")
    _passed(attack_checks.check_transfer(honest, transfer), "transfer", 0.0, 0.01)
    check = attack_checks.check_transfer(honest, None)
    assert (check.verdict, check.advice) == ("skipped", "No surrogate was given.")
