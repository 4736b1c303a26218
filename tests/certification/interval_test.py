import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust import backend
from keras_robust.certification import Interval
from keras_robust.certification import interval_margins
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def linear_model():
    rng = np.random.default_rng(0)
    head = layers.Dense(3)
    model = keras.Sequential([keras.Input((4,)), head])
    head.set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    return model, rng.uniform(size=(20, 4)).astype("float32")


def exact_radii(model, x):
    """Returns the Linf distances of a linear model, `min_j (z_y - z_j) / ||w_y - w_j||_1`."""
    kernel, bias = (weight.astype("float64") for weight in model.layers[0].get_weights())
    z = x.astype("float64") @ kernel + bias
    y = np.argmax(z, axis=-1)
    radii = []
    for row, label in enumerate(y):
        others = np.delete(np.arange(3), label)
        gaps = z[row, label] - z[row, others]
        radii.append(np.min(gaps / np.abs(kernel[:, [label]] - kernel[:, others]).sum(axis=0)))
    return y, np.array(radii)


def test_a_linear_model_without_a_box_has_its_distance():
    model, x = linear_model()
    y, expected = exact_radii(model, x)
    found = Interval(None, max_radius=0.3, num_steps=25).certify(model, x)
    np.testing.assert_array_equal(found.predictions, y)
    # The slack is 1e-6 of logits up to 3, and slopes are about 3.
    np.testing.assert_allclose(found.radii, np.minimum(expected, 0.3), rtol=0, atol=5e-6)
    assert found.radii.dtype == "float64"
    assert 0.1 < np.mean(expected > 0.3) < 0.9


@tiers.parametrize("bounds", [(0.0, 1.0), (0.0, [1.0, 0.9, 1.0, 1.0])])
def test_a_linear_model_in_a_box_has_the_radii_of_the_closed_form(bounds):
    model, x = linear_model()
    high = np.broadcast_to(bounds[1], x.shape).astype("float32")
    x = np.minimum(x, high)
    y = np.argmax(model(x), axis=-1)
    found = Interval(bounds).certify(model, x)
    for factor, expected in ((0.999, True), (1.001, False)):
        # If no input in the box is a mistake, every radius is certified.
        radii = np.minimum(factor * found.radii, 0.98).reshape(-1, 1)
        ball = kr.Linf(radii, bounds)
        robust = kr.certification.exact_linear(model, x, y, ball).robust
        inside = found.radii < 0.97
        assert inside.sum() > 10
        np.testing.assert_array_equal(robust[inside], expected)


def test_one_hidden_layer_by_hand():
    """One unit `relu(x)` with x in `[0.6, 1]` and a bound at 0.8: `z = 2 h - 1` falls to 0."""
    hidden, head = layers.Dense(1, activation="relu"), layers.Dense(1)
    model = keras.Sequential([keras.Input((1,)), hidden, head])
    hidden.set_weights([np.ones((1, 1)), np.zeros(1)])
    head.set_weights([np.full((1, 1), 2.0), -np.ones(1)])
    found = Interval().certify(model, np.array([[0.8], [0.1], [0.5]], "float32"))
    np.testing.assert_array_equal(found.predictions, [1, 0, 0])
    np.testing.assert_allclose(found.radii, [0.3, 0.4, 0.0], atol=2e-6)


@tiers.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_change_the_radii(batch_size):
    model = numpy_reference.keras_model()
    x, _ = numpy_reference.examples(7)
    expected = Interval().certify(model, x)
    found = Interval().certify(model, x, batch_size=batch_size)
    np.testing.assert_allclose(found.radii, expected.radii, rtol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 6])
def test_bisection_steps_are_the_precision(num_steps):
    model, x = linear_model()
    fine = Interval(None, max_radius=1.0, num_steps=40).certify(model, x).radii
    found = Interval(None, max_radius=1.0, num_steps=num_steps).certify(model, x).radii
    assert np.all(found <= fine) and np.all(fine - found <= 0.5**num_steps)
    np.testing.assert_allclose(found * 2**num_steps, np.rint(found * 2**num_steps))


@pytest.mark.exhaustive
def test_certified_radii_are_below_the_nearest_mistakes_that_fmn_finds():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(64, 6)).astype("float32")
    y = (x[:, 0] + 0.5 * x[:, 1] > 0.75).astype("int32")
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(16, activation="relu"), layers.Dense(2)]
    )
    model.compile(
        keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    robust = kr.AdvTrain(kr.Linf(0.1), objective="ibp", warmup=40)
    model.fit(x, y, epochs=40, verbose=0, batch_size=32, callbacks=[robust])
    found = Interval().certify(model, x)
    report = kr.evaluate(model, (x, found.predictions), kr.Linf(0.1), "fgsm")
    assert np.all(found.radii <= report.distances + 1e-5)
    assert np.median(found.radii) > 0.02
    assert set(found.predictions) == {0, 1}


def test_margins_have_a_gradient_and_a_dtype():
    model, x = linear_model()
    for dtype in ("float32", "float64"):
        margins = interval_margins(
            model, keras.ops.cast(x, dtype), 0.1, keras.ops.zeros((20,), "int32"), (0.0, 1.0)
        )
        assert margins.dtype == dtype and margins.shape == (20, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": None}, "the largest radius to try, is required.*max_radius=None"),
        ({"max_radius": 0.0}, "`max_radius` must be a number above 0.*Received: max_radius=0.0"),
        ({"num_steps": -1}, "`num_steps` must be a whole number from 0 to 60.*num_steps=-1"),
        ({"bounds": (1.0, 0.0)}, "low < high"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(Interval, message, **arguments)


def test_config_round_trip():
    for method in (Interval(), Interval(([0.0, -1.0], 1.0), max_radius=0.5, num_steps=7)):
        again = Interval.from_config(method.get_config())
        assert again.get_config() == method.get_config()
    assert (again.get_config()["max_radius"], again.get_config()["num_steps"]) == (0.5, 7)
