import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import hashing
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import small_models
from tests.support import tiers

SPSA = kr.attacks.SPSA
SEEDS = np.array([[1, 5], [1, 6], [2, -3], [9, 9], [0, 1]], "int32")


def margin(x, label):
    z = numpy_reference.logits(x)
    return np.max(np.delete(z, label)) - z[label]


def reference(x, label, seed, ball, *, num_steps, num_samples, rate, delta):
    """Returns best point, loss, success and queries of one example in float64.

    `ball` is `(norm, epsilon, bounds)`.
    """
    x, key = x.astype("float64"), hashing.key(seed)
    x_adv, mean, square = x, np.zeros_like(x), np.zeros_like(x)
    best, loss, queries = x, margin(x, label), 2
    for step in range(num_steps):
        gradient = np.zeros_like(x)
        for pair in range(num_samples // 2):
            bits = hashing.draw(key, step * (num_samples // 2) + pair, len(x))
            v = np.array([hashing.sign(bit) for bit in bits])
            for direction in (v, -v):
                gradient += margin(x_adv + delta * direction, label) * direction / delta
        gradient /= num_samples
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        x_adv = x_adv + rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        x_adv = numpy_reference.project(x_adv[None], x[None], *ball)[0]
        queries += num_samples + 1
        if margin(x_adv, label) > loss:
            best, loss = x_adv, margin(x_adv, label)
        if loss > 0:
            break
    return best, loss, loss > 0, queries


def search(attack, x, y, ball, seeds=SEEDS, model=None):
    classifier = models.Classifier(model or numpy_reference.keras_model())

    @backends.traced
    def run(x, seeds):
        return attack.search(kr.attacks.SearchProblem(classifier, x, y, ball, seeds))

    return run(keras.ops.convert_to_tensor(x), seeds[: len(x)])


@tiers.parametrize("bounds", [(0.0, 1.0), None])
@tiers.parametrize("norm,epsilon", [("Linf", 0.12), ("L2", 0.25), ("L1", 0.5)])
def test_is_adam_on_the_estimate_of_the_paper(norm, epsilon, bounds):
    x, y = numpy_reference.examples()
    settings = {"num_steps": 7, "num_samples": 6, "delta": 0.02}
    attack = SPSA(learning_rate=0.03, **settings)
    found = search(attack, x, y, getattr(kr.threat_models, norm)(epsilon, bounds))
    for i in range(len(x)):
        x_adv, loss, success, queries = reference(
            x[i], y[i], SEEDS[i], (norm, epsilon, bounds), rate=0.03, **settings
        )
        np.testing.assert_allclose(found.x_adv[i], x_adv, rtol=0, atol=2e-4)
        assert float(found.loss[i]) == pytest.approx(loss, abs=1e-3)
        assert bool(found.success[i]) == success and int(found.queries[i]) == queries
    assert 0 < np.sum(found.success) < len(x) and not np.any(found.zero_gradient)


@tiers.parametrize("bounds", [(0.0, 1.0), None])
@tiers.parametrize("norm", ["Linf", "L2", "L1"])
def test_comes_close_to_the_best_point_of_a_linear_model(norm, bounds):
    x, y = linear_model.examples()
    epsilon = linear_model.EPSILON[norm]
    # There is no class boundary, so that the ascent continues to the end.
    bias = np.array([[100.0 if label == k else 0.0 for k in (0, 1)] for label in y], "float32")
    x_adv = SPSA(num_steps=150, num_samples=32)(
        lambda x: linear_model.logits(x) + bias,
        x,
        y,
        getattr(kr.threat_models, norm)(epsilon, bounds),
    )
    best = linear_model.margin(linear_model.best(x, y, norm, epsilon, bounds), y)
    start = linear_model.margin(x, y)
    reached = (linear_model.margin(x_adv, y) - start) / (best - start)
    # The steps of Adam have the same size in every coordinate, which suits Linf best.
    assert reached.min() > {"Linf": 0.97, "L2": 0.9, "L1": 0.6}[norm]
    assert reached.max() <= 1.0 + 1e-4


@pytest.mark.exhaustive
def test_does_not_depend_on_the_batch():
    model = small_models.convolution()
    x, y = small_models.images(model)
    attack = SPSA(num_steps=3, num_samples=4, random_start=True)
    together = attack.run(model, x, y, kr.Linf(0.05))
    parts = attack.run(model, x, y, kr.Linf(0.05), batch_size=2)
    np.testing.assert_allclose(parts.x_adv, together.x_adv, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(parts.queries, together.queries)


@pytest.mark.exhaustive
@backends.tensorflow_only("in the directions that JAX draws one example is never broken")
def test_stops_when_all_are_broken_and_keeps_broken_points():
    calls = []

    def count(x):
        calls.append(len(x))
        return numpy_reference.logits(x)

    model = kr.evaluation.BlackBox(count, 3)
    x, y = numpy_reference.examples(8)
    y[0] = (y[0] + 1) % 3
    found = SPSA(num_samples=8, learning_rate=0.05).run(model, x, y, kr.Linf(0.8))
    assert found.success.all() and found.queries[0] == 2
    assert len(calls) == found.queries.max() and len(np.unique(found.queries)) > 2
    np.testing.assert_array_equal(found.x_adv[0], x[0])
    longer = SPSA(num_samples=8, learning_rate=0.05, num_steps=200).run(model, x, y, kr.Linf(0.8))
    np.testing.assert_array_equal(longer.x_adv, found.x_adv)


def test_a_model_that_never_errs_gets_all_queries():
    x, y = numpy_reference.examples()
    found = SPSA(num_steps=3, num_samples=4).run(
        lambda x: 0.0 * x[:, :3] + np.array([1.0, 0.0, 0.0], "float32"), x, 0 * y, kr.Linf(0.1)
    )
    assert not found.success.any() and found.queries.tolist() == [17] * 5
    np.testing.assert_array_equal(found.x_adv, x)


def test_neighbors_with_non_finite_logits_are_ignored():
    def holes(x):
        # Outside of the unit box the logits are not finite.
        outside = keras.ops.any(keras.ops.abs(x - 0.5) > 0.5, axis=-1, keepdims=True)
        return keras.ops.where(outside, np.nan, x @ numpy_reference.HIDDEN[0][:, :3].astype("f"))

    x = numpy_reference.examples()[0]
    x[:, 0], x[:, 1:] = 0.995, np.clip(x[:, 1:], 0.1, 0.9)
    y = np.argmax(x @ numpy_reference.HIDDEN[0][:, :3], axis=-1)
    found = SPSA(num_steps=20, num_samples=16).run(holes, x, y, kr.Linf(0.05))
    assert np.isfinite(found.x_adv).all() and np.all(found.loss > -100.0)


@pytest.mark.exhaustive
def test_breaks_a_model_with_masked_gradients():
    def steps(x):
        # The model is a step function with steps of 1 / 64, so that gradients are almost always
        # zero.
        return linear_model.logits(keras.ops.round(x * 64.0) / 64.0)

    x, y = linear_model.examples()
    with pytest.raises(ValueError, match="no gradient"):
        kr.attacks.PGD()(steps, x, y, kr.Linf(0.2))
    found = SPSA(delta=0.03, num_samples=32).run(steps, x, y, kr.Linf(0.12))
    best = linear_model.margin(linear_model.best(x, y, "Linf", 0.12, (0.0, 1.0)), y)
    np.testing.assert_array_equal(found.success, best > 0)
    assert 0 < found.success.sum() < len(x)


def test_targets():
    x, y = numpy_reference.examples()
    targets = (y + 1) % 3
    attack = SPSA(num_samples=16, learning_rate=0.05, targeted=True)
    found = attack.run(numpy_reference.keras_model(), x, targets, kr.Linf(0.6))
    reached = numpy_reference.logits(found.x_adv).argmax(-1) == targets
    np.testing.assert_array_equal(reached, found.success)
    assert found.success.sum() >= 3


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"num_restarts": 0}, "`num_restarts` must be an int >= 1. Received: 0"),
        ({"num_samples": 0}, "`num_samples` must be an even int >= 2.* Received: 0"),
        ({"num_samples": 7}, "`num_samples` must be an even int >= 2.* Received: 7"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a number > 0. Received: 0.0"),
        ({"delta": "1/255"}, "`delta` must be a number > 0. Received: '1/255'"),
        ({"random_start": "gaussian"}, "`random_start` must be one of .*Received: 'gaussian'"),
        ({"targeted": 1}, "`targeted` must be one of .*Received: 1"),
        ({"loss": "compiled"}, "`loss` must be one of .*Received: 'compiled'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(SPSA, message, **arguments)
