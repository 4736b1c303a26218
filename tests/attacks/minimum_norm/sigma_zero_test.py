import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

SigmaZero = kr.attacks.SigmaZero


def counting(bounds=(0.0, 1.0), per_pixel=False):
    return kr.L0(1, bounds, per_pixel).with_epsilon(np.float32(np.inf))


def test_changes_the_minimal_number_of_features():
    x, y = linear_model.examples(20)
    found = SigmaZero().run(linear_model.logits, x, y, counting())
    fewest = linear_model.fewest_features(x, y)
    needed = np.sum(found.x_adv != x, axis=(1, 2, 3))
    np.testing.assert_array_equal(-found.loss, needed)
    assert found.success.all() and np.all(linear_model.margin(found.x_adv, y) > 0.0)
    assert np.all(needed >= fewest) and np.mean(needed == fewest) >= 0.9


@pytest.mark.exhaustive
def test_changes_the_minimal_number_of_pixels():
    x, y = linear_model.examples(20)
    found = SigmaZero().run(linear_model.logits, x, y, counting(per_pixel=True))
    slopes, flat = linear_model.ascent(y), x.reshape(20, 12)
    gains = np.maximum(slopes * (1.0 - flat), -slopes * flat).reshape(20, 6, 2).sum(axis=-1)
    gains = np.cumsum(np.sort(gains, axis=-1)[:, ::-1], axis=-1)
    fewest = 1 + np.argmax(gains > -linear_model.margin(x, y)[:, None], axis=-1)
    needed = np.sum(np.any(found.x_adv != x, axis=-1), axis=(1, 2))
    np.testing.assert_array_equal(-found.loss, needed)
    assert np.all(needed >= fewest) and np.mean(needed == fewest) >= 0.9


def reference(x, label, num_steps, eta=1.0, sigma=1e-3, tau=0.3, factor=0.01):
    """Returns the search in float64 for one example, on the network of `numpy_reference`."""
    x = x.astype("float64")
    delta, mean, square = np.zeros((3, len(x)))
    best, nearest = np.inf, x
    for step in range(num_steps + 1):
        logits = numpy_reference.logits((x + delta)[None])[0]
        wrong, size = np.argmax(logits) != label, np.sum(delta != 0.0)
        if wrong and size < best:
            best, nearest = size, x + delta
        gradient = 2.0 * sigma * delta / (delta**2 + sigma) ** 2 / len(x)
        if not wrong:
            y = np.array([label])
            gradient -= numpy_reference.gradient((x + delta)[None], y, "margin")[0]
        gradient /= np.abs(gradient).max() or 1.0
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1.0 - 0.999 ** (step + 1))) + 1e-8
        rate = eta * (0.1 + 0.9 * 0.5 * (1.0 + np.cos(np.pi * step / num_steps)))
        delta = delta - rate * mean / (1.0 - 0.9 ** (step + 1)) / root
        delta = np.clip(x + delta, 0.0, 1.0) - x
        tau = np.clip(tau + factor * rate * (1.0 if wrong else -1.0), 0.0, 1.0)
        delta = np.where(np.abs(delta) < tau, 0.0, delta)
    return best, nearest


SETTINGS = {"step_size": 0.3, "sigma": 0.02, "threshold": 0.1, "threshold_factor": 0.1}


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize("arguments", [SETTINGS, {}])
def test_every_step_is_the_float64_step(arguments):
    x, y = numpy_reference.examples(6)
    found = SigmaZero(num_steps=10, **arguments).run(
        numpy_reference.keras_model(), x, y, counting()
    )
    expected = [
        reference(one, label, 10, *arguments.values()) for one, label in zip(x, y, strict=True)
    ]
    assert found.success.sum() >= 4
    counts = np.where(found.success, -found.loss, np.inf)
    np.testing.assert_array_equal(counts, [size for size, _ in expected])
    np.testing.assert_allclose(found.x_adv, np.stack([point for _, point in expected]), atol=1e-4)


@pytest.mark.exhaustive
def test_everything_is_a_share_of_the_width_of_the_box():
    # Scaling everything by 10 scales the result by 10.
    x, y = numpy_reference.examples(6)
    model, attack = numpy_reference.keras_model(), SigmaZero(num_steps=20)
    small = attack.run(model, x, y, counting())
    large = attack.run(lambda x: model(0.1 * x), 10.0 * x, y, counting((0.0, 10.0)))
    np.testing.assert_array_equal(large.loss, small.loss)
    np.testing.assert_allclose(large.x_adv, 10.0 * small.x_adv, rtol=0, atol=1e-2)


@pytest.mark.exhaustive
def test_targeted_reaches_the_target():
    x, y = numpy_reference.examples(6)
    target = (y + 1) % 3
    found = SigmaZero(targeted=True).run(numpy_reference.keras_model(), x, target, counting())
    reached = np.argmax(numpy_reference.logits(found.x_adv.astype("float64")), axis=-1)
    assert found.success.sum() >= 4
    np.testing.assert_array_equal(found.success, reached == target)


@pytest.mark.exhaustive
def test_a_constant_model_leaves_the_example_unchanged():
    def constant(x):
        return keras.ops.stack([0.0 * x[:, 0] + 1.0, 0.0 * x[:, 1]], axis=-1)

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = SigmaZero(num_steps=20).run(constant, x, np.array([0, 0]), counting())
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and found.zero_gradient.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"step_size": 0.0}, "`step_size` must be a number > 0. Received: 0.0"),
        ({"sigma": 0.0}, "`sigma` must be a number > 0. Received: 0.0"),
        ({"threshold": -0.1}, "`threshold` must be a number >= 0. Received: -0.1"),
        ({"threshold_factor": "1"}, "`threshold_factor` must be a number >= 0. Received: '1'"),
        ({"targeted": "all"}, "`targeted` must be one of .*Received: 'all'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(SigmaZero, message, **arguments)


def test_needs_l0():
    x, y = linear_model.examples(2)
    with pytest.raises(ValueError, match=r"SigmaZero .* needs the threat model L0.*: L2\("):
        SigmaZero().run(linear_model.logits, x, y, kr.L2(0.1))
