import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

MMA = kr.objectives.MMA
COUNTED = np.array([True, False, True, True])
SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.0, 0.8])


def _found(x_adv=forward_passes.X_ADV, counted=COUNTED):
    found = kr.attacks.AttackResult.unattacked(keras.ops.convert_to_tensor(x_adv))
    return found._replace(success=keras.ops.convert_to_tensor(counted))


def _loss(objective, **arguments):
    arguments = {"found": _found(), **arguments}
    return float(
        objective.loss(*forward_passes.forward_passes(forward_passes.model(), **arguments))
    )


def _paper(clean_weight=1 / 3, counted=COUNTED, sample_weight=None):
    clean, boundary = (
        forward_passes.cross_entropy(numpy_reference.logits(x.astype("float64")))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    terms = (1.0 - clean_weight) * counted * boundary + clean_weight * clean
    return forward_passes.mean(terms, sample_weight)


@pytest.mark.parametrize("clean_weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(clean_weight, sample_weight):
    expected = _paper(clean_weight, sample_weight=sample_weight)
    found = _loss(MMA(clean_weight), sample_weight=sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


def test_default_is_a_third_of_clean_loss():
    assert _loss(MMA()) == pytest.approx(_paper(1 / 3), rel=1e-5)


def test_examples_that_do_not_count_do_not_change_the_divisor():
    nothing = np.zeros(4, bool)
    found = _loss(MMA(0.0), found=_found(counted=nothing))
    assert found == _paper(0.0, nothing) == 0.0


def test_clean_weight_may_be_a_schedule():
    for iteration, weight in ((2, 0.0), (9, 0.8)):
        found = _loss(MMA(SCHEDULE), iteration=iteration)
        assert found == pytest.approx(_paper(weight), rel=1e-5)


def test_regularisers_count_once():
    model = forward_passes.model(penalty=0.1)
    with_penalty = MMA(0.25).loss(*forward_passes.forward_passes(model, found=_found()))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(MMA(0.25)) == pytest.approx(penalty, rel=1e-5)


def test_batch_norm_sees_the_boundary_pass_and_the_clean_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    MMA().loss(*forward_passes.forward_passes(model, found=_found()))
    expected = 0.9 * 0.1 * forward_passes.X_ADV.mean(0) + 0.1 * forward_passes.X.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


class Ends(kr.attacks.Attack):
    """Attack that returns a given result."""

    def __init__(self, ends):
        self.ends = ends

    def perturb(self, classifier, x, y, threat_model, seed):
        return kr.attacks.AttackResult.unattacked(keras.ops.convert_to_tensor(self.ends))._replace(
            loss=keras.ops.arange(float(len(self.ends)))
        )


def _linear(attack=None, steps=10, *, wrong, epsilon=0.15):
    """What `perturb` makes for the linear two-class model; `wrong` have the other label."""
    x, y = linear_model.examples(8)
    y[list(wrong)] = 1 - y[list(wrong)]
    batch = forward_passes.batch(x, y, ball=kr.Linf(epsilon, None))
    classifier = models.Classifier(linear_model.logits)
    found = MMA(bisection_steps=steps).perturb(attack or kr.attacks.PGD(), classifier, batch)
    return found, x, y


def test_boundary_points_are_where_the_margin_is_zero():
    # The boundary of a linear model is nearest along the sign of its weights.
    found, x, y = _linear(wrong=(), epsilon=0.5)
    margin = linear_model.margin(x, y)
    norm = np.abs(linear_model.ascent(y)).sum(-1)
    distance = -margin / norm
    near = distance < 0.5
    assert near.all() and distance.min() > 0.0
    assert np.asarray(found.success).tolist() == near.tolist()
    expected = x + (distance[:, None] * np.sign(linear_model.ascent(y))).reshape(x.shape)
    np.testing.assert_allclose(found.x_adv, expected, atol=0.5 * 2**-11 + 1e-6)


def test_the_boundary_of_a_network_is_where_the_label_has_half_of_the_probability():
    x, y = numpy_reference.examples(20)
    classifier = models.Classifier(numpy_reference.keras_model())
    batch = forward_passes.batch(x, y, ball=kr.L2(0.8))
    objective = MMA(bisection_steps=16)
    found = objective.perturb(kr.attacks.PGD(), classifier, batch)
    success = np.asarray(found.success)
    start = forward_passes.cross_entropy(numpy_reference.logits(x.astype("float64")), y)
    loss = forward_passes.cross_entropy(
        numpy_reference.logits(np.asarray(found.x_adv).astype("float64")), y
    )
    near = success & (start < np.log(2.0))
    assert near.sum() > 3 and (~success).sum() > 0
    np.testing.assert_allclose(loss[near], np.log(2.0), atol=1e-4)
    assert np.all(loss[~success] < np.log(2.0))
    assert np.all(kr.L2(0.8).contains(found.x_adv, keras.ops.convert_to_tensor(x)))


def test_misclassified_examples_stay_and_far_ones_do_not_count():
    found, x, y = _linear(wrong=(1, 3), epsilon=0.1)
    margin = linear_model.margin(x, y)
    reach = 0.1 * np.abs(linear_model.ascent(y)).sum(-1)
    wrong, near = margin > 0, (margin < 0) & (margin + reach > 0)
    assert wrong.sum() == 2 and near.sum() >= 2 and (~wrong & ~near).sum() >= 2
    assert np.asarray(found.success).tolist() == (wrong | near).tolist()
    x_adv = np.asarray(found.x_adv)
    np.testing.assert_array_equal(x_adv[wrong], x[wrong])
    np.testing.assert_allclose(linear_model.margin(x_adv[near], y[near]), 0.0, atol=2e-3)
    far = ~wrong & ~near
    ends = x + (0.1 * np.sign(linear_model.ascent(y))).reshape(x.shape)
    np.testing.assert_allclose(x_adv[far], ends[far], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_bisection_is_along_the_way_to_what_was_found(steps):
    ends = (
        np.random.default_rng(3).uniform(-2.0, 2.0, size=(8, *linear_model.SHAPE)).astype("float32")
    )
    found, x, y = _linear(Ends(ends), steps, wrong=())
    before, after = linear_model.margin(x, y), linear_model.margin(ends, y)
    near = after >= 0.0
    assert 0 < near.sum() < 8
    assert np.asarray(found.success).tolist() == near.tolist()
    np.testing.assert_array_equal(found.loss, np.arange(8.0))
    # The middle of that one of 2**steps parts of the way in which the margin changes its sign.
    hyperplane_step = before / (before - after)
    part = (np.floor(hyperplane_step * 2**steps) + 0.5) / 2**steps
    expected = x + part[:, None, None, None] * (ends - x)
    np.testing.assert_allclose(np.asarray(found.x_adv)[near], expected[near], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found.x_adv)[~near], ends[~near])


class Asked(kr.attacks.PGD):
    """Attack that records itself and the arguments of `perturb`."""

    used = []

    def perturb(self, classifier, x, y, threat_model, seed):
        self.used.append((self, (classifier, x, y, threat_model, seed)))
        return super().perturb(classifier, x, y, threat_model, seed)


@tiers.parametrize(
    ("given", "taken"), [(None, "soft_margin"), ("cross_entropy", "cross_entropy"), ("dlr", "dlr")]
)
def test_an_open_loss_becomes_the_soft_margin(given, taken):
    attack, batch = Asked(num_steps=2, loss=given, num_restarts=2), forward_passes.batch()
    classifier = models.Classifier(forward_passes.model())
    MMA().perturb(attack, classifier, batch)
    used, request = Asked.used.pop()
    assert used.get_config() == {**attack.get_config(), "loss": taken}
    assert request == (classifier, batch.x, batch.y, batch.threat_model, batch.seed)


@pytest.mark.exhaustive
def test_rows_and_dicts_of_labels():
    x, y = numpy_reference.examples(6)
    classifier = models.Classifier(numpy_reference.keras_model())
    plain, *others = (
        MMA().perturb(kr.attacks.BIM(), classifier, forward_passes.batch(x, y, ball=kr.L2(0.8)))
        for y in (y, np.eye(3, dtype="float32")[y], y[:, None])
    )
    for other in others:
        np.testing.assert_allclose(other.x_adv, plain.x_adv, atol=1e-6)


def _accuracies(objective):
    """Clean accuracy and that at 0.2, in closed form, of a linear model trained at 0.3."""
    x = np.random.default_rng(0).uniform(size=(80, 4)).astype("float32")
    y = (x[:, 0] + 0.3 * x[:, 1] > 0.65).astype("int64")
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(0.1))
    attack = kr.attacks.BIM(num_steps=2)
    callback = kr.AdvTrain(kr.Linf(0.3, None), objective=objective, attack=attack, warmup=0)
    linear_fit.fit(model, callback, x, y, epochs=40)
    kernel = linear_fit.weights(model).astype("float64")
    others = [(kernel[:, (y + other) % 3] - kernel[:, y]).T for other in (1, 2)]
    return [
        np.mean(np.max([(w * x).sum(-1) + e * np.abs(w).sum(-1) for w in others], axis=0) < 0.0)
        for e in (0.0, 0.2)
    ]


@pytest.mark.exhaustive
def test_a_large_radius_costs_less_than_with_a_fixed_one():
    # The claim of the paper: no example is pushed further than it can go.
    plain, fixed, margin = (_accuracies(name) for name in ("clean", "adversarial", "mma"))
    assert fixed[0] < plain[0] - 0.2
    assert margin[0] > plain[0] - 0.05
    assert margin[1] > plain[1] + 0.1


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_one_logit_under_fit(jit_compile):
    x, _ = linear_fit.data(16)
    y = (x[:, 1] > 0.5).astype("float32")
    head = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), head])
    kernel = np.array([[0.5], [2.0], [-1.0], [-1.5]])
    head.set_weights([kernel])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=jit_compile)
    attack = kr.attacks.BIM(num_steps=1)
    callback = kr.AdvTrain(kr.Linf(0.2, None), objective="mma", attack=attack, warmup=0)
    logs = model.fit(x, y, batch_size=16, verbose=0, callbacks=[callback]).history
    margin = (1.0 - 2.0 * y) * (x.astype("float64") @ kernel)[:, 0]
    end = margin + 0.2 * np.abs(kernel).sum()
    at_boundary = np.where(margin >= 0, margin, np.where(end >= 0, 0.0, -np.inf))
    assert len(set(np.sign(at_boundary))) == 3
    terms = 2 / 3 * np.logaddexp(0.0, at_boundary) + 1 / 3 * np.logaddexp(0.0, margin)
    # Half of the last bracket on a way of length 1 (0.2 * 5) leaves that much of a margin.
    assert logs["loss"][0] == pytest.approx(np.mean(terms), abs=5e-4)


def test_a_regression_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, _ = linear_fit.data(8)
    with refusals.assert_refused("Expected one classification output", model):
        model.fit(x, x[:, :1], verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), objective="mma")])


@pytest.mark.parametrize("clean_weight", [-0.1, 1.1, float("nan"), "1/3"])
def test_wrong_clean_weight(clean_weight):
    refusals.assert_argument_refused(
        MMA, "`clean_weight` must be a number from 0 to 1.0", clean_weight=clean_weight
    )


@pytest.mark.parametrize("steps", [0, -1, 10.0, "10"])
def test_wrong_bisection_steps(steps):
    refusals.assert_argument_refused(
        MMA, "`bisection_steps` must be an int >= 1. Received: bisec", bisection_steps=steps
    )


@pytest.mark.exhaustive
def test_no_accuracy_under_attack_is_logged():
    model = forward_passes.model()
    adv_train = kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.PGD(num_steps=1), objective="mma")
    history = model.fit(forward_passes.X, forward_passes.Y, verbose=0, callbacks=[adv_train])
    assert list(history.history) == ["loss"]
