import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import backends
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

Kurakin = kr.objectives.Kurakin
SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.0, 1.5])
LEAST_LIKELY = kr.attacks.FGSM(targeted="least_likely")


class Asked(kr.attacks.Attack):
    """Attack that returns the examples plus 1, and records its arguments."""

    def perturb(self, classifier, x, y, threat_model, seed):
        self.request = (x, y, threat_model, seed)
        shape = keras.ops.shape(x)[:1]
        yes, one = keras.ops.ones(shape, "bool"), keras.ops.ones(shape)
        return kr.attacks.AttackResult(x + 1.0, one, yes, yes, keras.ops.cast(one, "int32"))


def _mixed(count):
    return np.concatenate([forward_passes.X_ADV[:count], forward_passes.X[count:]])


def _loss(objective, count=2, **arguments):
    """The loss of a batch of four, of which `count` are adversarial."""
    arguments = {"x_adv": _mixed(count), **arguments}
    return float(
        objective.loss(*forward_passes.forward_passes(forward_passes.model(), **arguments))
    )


def _paper(count=2, weight=0.3, sample_weight=None, x=None):
    terms = forward_passes.cross_entropy(
        numpy_reference.logits((_mixed(count) if x is None else x).astype("float64"))
    )
    terms = terms * (np.ones(4) if sample_weight is None else sample_weight)
    return (terms[count:].sum() + weight * terms[:count].sum()) / (4 - count + weight * count)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.3, 1), (0.75, 3)])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(share, count, weight, sample_weight):
    objective = Kurakin(share=share, weight=weight)
    expected = _paper(count, weight, sample_weight)
    assert _loss(objective, count, sample_weight=sample_weight) == pytest.approx(expected, rel=1e-5)


def test_defaults():
    assert _loss(Kurakin()) == pytest.approx(_paper(2, 0.3), rel=1e-5)
    assert Kurakin().random_epsilon is True


def test_weight_may_be_a_schedule():
    for iteration, weight in ((2, 0.0), (9, 1.5)):
        found = _loss(Kurakin(weight=SCHEDULE), iteration=iteration)
        assert found == pytest.approx(_paper(2, weight), rel=1e-5)


def test_without_a_perturbation_and_with_weight_1_it_is_the_clean_loss():
    clean = forward_passes.model().evaluate(forward_passes.X, forward_passes.Y, verbose=0)
    assert _loss(Kurakin(weight=1.0), x_adv=forward_passes.X) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    model = forward_passes.model(penalty=0.1)
    with_penalty = Kurakin().loss(*forward_passes.forward_passes(model, x_adv=_mixed(2)))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(Kurakin()) == pytest.approx(penalty, rel=1e-5)


def test_batch_norm_sees_the_mixed_batch_once():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    Kurakin().loss(*forward_passes.forward_passes(model, x_adv=_mixed(2)))
    np.testing.assert_allclose(norm.moving_mean, 0.1 * _mixed(2).mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("share", "size", "count"),
    [(0.5, 4, 2), (0.5, 5, 3), (0.5, 1, 1), (0.3, 5, 2), (0.1, 4, 1), (0.7, 10, 7), (0.9, 3, 3)],
)
def test_share_is_rounded_to_at_least_one(share, size, count):
    expected = np.arange(size) < count
    x = np.zeros((size, 2), "float32")
    objective = Kurakin(share=share)
    np.testing.assert_array_equal(objective.attacked_mask(forward_passes.batch(x, x)), expected)

    if backends.IS_JAX:
        return

    @tf.function(input_signature=[tf.TensorSpec((None, 2))], autograph=False)
    def of_unknown_size(x):
        return objective.attacked_mask(forward_passes.batch(x, x))

    np.testing.assert_array_equal(of_unknown_size(x), expected)


def test_a_batch_without_clean_examples_has_a_loss():
    one = {name: getattr(forward_passes, name)[:1] for name in ("X", "Y")}
    z = numpy_reference.logits(one["X"].astype("float64"))
    for weight, expected in ((0.3, forward_passes.cross_entropy(z, one["Y"])[0]), (0.0, 0.0)):
        pair = forward_passes.forward_passes(
            forward_passes.model(), x=one["X"], x_adv=one["X"], y=one["Y"]
        )
        assert float(Kurakin(weight=weight).loss(*pair)) == pytest.approx(expected, rel=1e-5)


def test_only_the_first_examples_go_through_the_attack():
    attack, batch = Asked(), forward_passes.batch()
    found = Kurakin(share=0.3, random_epsilon=False).perturb(attack, None, batch)
    x, y, threat_model, seed = attack.request
    np.testing.assert_array_equal(x, forward_passes.X[:1])
    np.testing.assert_array_equal(y, forward_passes.Y[:1])
    assert threat_model is forward_passes.BALL and seed is batch.seed
    np.testing.assert_array_equal(
        found.x_adv, np.concatenate([forward_passes.X[:1] + 1, forward_passes.X[1:]])
    )
    np.testing.assert_array_equal(found.loss, [1, 0, 0, 0])
    assert np.asarray(found.success).tolist() == [True, False, False, False]
    assert np.asarray(found.zero_gradient).tolist() == [True, False, False, False]


def test_labels_may_be_a_structure():
    attack = Asked()
    y = {
        "one": keras.ops.convert_to_tensor(forward_passes.Y),
        "two": keras.ops.convert_to_tensor(forward_passes.X),
    }
    Kurakin().perturb(attack, None, forward_passes.batch()._replace(y=y))
    np.testing.assert_array_equal(attack.request[1]["one"], forward_passes.Y[:2])
    np.testing.assert_array_equal(attack.request[1]["two"], forward_passes.X[:2])


@pytest.mark.parametrize("is_random", [True, False])
def test_beside_other_inputs_the_first_examples_are_changed_too(is_random):
    # The other inputs reach the model as whole batches.
    rng = np.random.default_rng(5)
    inputs = {
        "a": rng.uniform(0.3, 0.7, size=(7, 4)).astype("float32"),
        "b": rng.normal(size=(7, 3)),
    }
    weights = rng.normal(size=(4, 3))

    def model(given):
        return keras.ops.matmul(given["a"], weights.astype("float32")) + given["b"]

    x, classifier, ball = kr.threat_models.get({"a": kr.Linf(0.1)}).bind(model, inputs)
    batch = forward_passes.batch(x, np.zeros(7, int), ball=ball)
    objective = Kurakin(random_epsilon=is_random)
    x_adv = np.asarray(objective.perturb(LEAST_LIKELY, classifier, batch).x_adv)
    z = inputs["a"] @ weights + inputs["b"]
    up = np.sign((np.eye(3)[z.argmin(-1)] - linear_fit.softmax(z)) @ weights.T)
    delta = (x_adv - inputs["a"]) / up
    epsilon = delta[:, 0]
    np.testing.assert_allclose(delta, np.tile(epsilon[:, None], (1, 4)), atol=1e-6)
    np.testing.assert_array_equal(delta[4:], 0.0)
    if is_random:
        assert len(set(epsilon[:4])) == 4 and 0.0 < epsilon[:4].min() < epsilon[:4].max() <= 0.1
    else:
        np.testing.assert_allclose(epsilon[:4], 0.1, atol=1e-6)


def _radius(count=2000, ball=None, seed=(3, 4), features=3):
    attack, x = Asked(), np.full((2 * count, features), 0.5, "float32")
    batch = forward_passes.batch(x, np.zeros(len(x), int), ball=ball or kr.Linf(0.2), seed=seed)
    Kurakin().perturb(attack, None, batch)
    return np.asarray(attack.request[2].radius)


def test_epsilon_is_half_a_normal_distribution_cut_off_at_epsilon():
    radius = _radius()
    assert radius.shape == (2000, 1)
    assert radius.min() >= 0.0 and radius.max() <= 0.2
    expected = scipy.stats.truncnorm(0.0, 2.0, scale=0.1)
    assert scipy.stats.kstest(radius[:, 0], expected.cdf).pvalue > 0.01
    # The sample also covers both ends of the range.
    assert radius.max() > 0.19 and radius.min() < 0.001


def test_epsilon_is_another_one_for_every_batch():
    np.testing.assert_array_equal(_radius(), _radius())
    assert abs(np.corrcoef(_radius()[:, 0], _radius(seed=(3, 5))[:, 0])[0, 1]) < 0.1


def test_epsilon_does_not_repeat_the_numbers_of_the_attack():
    start = kr.Linf(1.0, None).random_start(
        keras.ops.zeros((2000, 1)), keras.ops.convert_to_tensor([3, 4])
    )
    assert abs(scipy.stats.spearmanr(_radius()[:, 0], start[:, 0]).statistic) < 0.1


def test_an_epsilon_per_channel_is_scaled_as_a_whole():
    radius = _radius(ball=kr.Linf([0.1, 0.2, 0.4]))
    assert radius.shape == (2000, 3)
    np.testing.assert_allclose(radius / radius[:, :1], np.tile([[1, 2, 4]], (2000, 1)), rtol=1e-5)


@tiers.parametrize("ball", [kr.Linf(0.08, None), kr.L2(0.2, None), kr.L1(0.3, None)])
@tiers.parametrize("is_random", [True, False])
def test_the_examples_are_those_of_fgsm(ball, is_random):
    x, y = numpy_reference.examples(7)
    classifier = models.Classifier(numpy_reference.keras_model())
    batch = forward_passes.batch(x, y, ball=ball)
    objective = Kurakin(random_epsilon=is_random)
    x_adv = np.asarray(objective.perturb(objective.default_attack, classifier, batch).x_adv)
    np.testing.assert_array_equal(x_adv[4:], x[4:])
    epsilon = np.full((4, 1), ball.epsilon)
    if is_random:
        uniform = np.asarray(backend.uniform((4, 1), backend.fold_in(batch.seed, 227)), "float64")
        epsilon = (
            ball.epsilon / 2 * scipy.stats.norm.ppf(0.5 + uniform * (scipy.stats.norm.cdf(2) - 0.5))
        )
    target = numpy_reference.logits(x[:4].astype("float64")).argmin(-1)
    gradient = -numpy_reference.gradient(x[:4].astype("float64"), target)
    norm = type(ball).__name__
    for row in range(4):
        one = slice(row, row + 1)
        expected = numpy_reference.step(
            x[one].astype("float64"), gradient[one], norm, epsilon[row, 0], None
        )
        np.testing.assert_allclose(x_adv[one], expected, rtol=0, atol=2e-6)


def test_the_attack_is_the_one_of_the_paper_unless_another_is_given():
    assert kr.AdvTrain(objective="kurakin").attack.get_config() == LEAST_LIKELY.get_config()
    assert type(kr.AdvTrain(objective="kurakin", attack="pgd").attack) is kr.attacks.PGD


@pytest.mark.exhaustive
def test_metrics_cover_the_attacked_examples():
    x, y = linear_fit.data()
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(0.0))
    callback = linear_fit.adv_train(objective=Kurakin(random_epsilon=False))
    logs = linear_fit.fit(model, callback, x, y).history
    hits, count, loss = 0, 0, 0.0
    for start in range(0, len(x), 8):
        xb, yb = x[start : start + 8].astype("float64"), y[start : start + 8]
        k = len(xb) // 2
        xb[:k] = linear_fit.fgsm(xb[:k], yb[:k], linear_fit.initial_weights(), linear_fit.EPSILON)
        p = linear_fit.softmax(xb @ linear_fit.initial_weights())
        terms = -np.log(p[np.arange(len(yb)), yb])
        loss += len(xb) * (terms[k:].sum() + 0.3 * terms[:k].sum()) / (len(xb) - k + 0.3 * k)
        hits, count = hits + np.sum(p[:k].argmax(-1) == yb[:k]), count + k
    assert count == 11
    assert logs["adv_accuracy"][0] == pytest.approx(hits / count, abs=1e-6)
    assert logs["loss"][0] == pytest.approx(loss / len(x), rel=1e-5)
    clean = np.mean(np.argmax(x @ linear_fit.initial_weights(), -1) == y)
    assert logs["accuracy"][0] == pytest.approx(clean, abs=1e-6)


def _trained(jit_compile, **arguments):
    x, y = linear_fit.data()
    model = linear_fit.make_model(jit_compile=jit_compile)
    callback = kr.AdvTrain(kr.Linf([0.05, 0.1, 0.1, 0.2]), objective=Kurakin(**arguments), warmup=0)
    linear_fit.fit(model, callback, x, y)
    return linear_fit.weights(model)


@pytest.mark.exhaustive
def test_xla_gives_the_same():
    plain, compiled = (_trained(jit, random_epsilon=False) for jit in (False, True))
    np.testing.assert_allclose(compiled, plain, atol=1e-5)
    # XLA draws other numbers, so that with a random epsilon the weights are similar only.
    compiled = _trained(True)
    assert 1e-3 < np.abs(compiled - plain).max() < 0.1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5, float("nan"), "half"])
def test_wrong_share(share):
    message = "`share` must be .* above 0 and below 1.*'clean'.*'adversarial'.*Received: share="
    refusals.assert_argument_refused(Kurakin, message, share=share)


@pytest.mark.parametrize("weight", [-0.1, float("inf"), "0.3"])
def test_wrong_weight(weight):
    refusals.assert_argument_refused(
        Kurakin, "`weight` must be a number from 0.*Received: weight=", weight=weight
    )
