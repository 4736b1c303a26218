import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust.certification import AlphaCrown
from keras_robust.certification import Crown
from keras_robust.certification import Linear
from keras_robust.certification.input_region import InputRegion
from tests.certification import backward_bounds_test
from tests.support import refusals
from tests.support import tiers
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
ORDERS = backward_bounds_test.ORDERS
BOUNDS = {"box": (0.0, 1.0), "channels": (0.0, [1.0, 0.9, 1.0, 0.7]), "none": None}
not_compiled = backward_bounds_test.not_compiled
both = pytest.mark.parametrize("method", [Crown, AlphaCrown])


def _linear(*end):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), *end])
    rng = np.random.default_rng(0)
    model.layers[0].set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    return model, RNG.uniform(0.0, 0.7, size=(12, 4)).astype("float32")


def _dense(x, *units, activation="relu"):
    """A network whose logits are 0 on average, so that every class wins somewhere."""
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(count, activation=activation) for count in units[:-1]]
    model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, layers.Dense(units[-1])])
    # Steeper than those of Keras, so that there are mistakes near by.
    model.set_weights([2.0 * weight for weight in model.get_weights()])
    model.layers[-1].bias.assign(-np.mean(model(x), axis=0))
    return model


def _points(count):
    return RNG.uniform(size=(count, 4)).astype("float32")


@pytest.mark.parametrize("norm", ORDERS)
@tiers.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_radii_of_an_affine_model_are_exact(norm, bounds, not_compiled):
    model, x = _linear(layers.Softmax())
    max_radius = 0.4 if bounds is None else None
    method = Crown(norm, bounds=bounds, max_radius=max_radius, num_steps=11)
    found, expected = (one.certify(model, x) for one in (method, Linear(norm, bounds=bounds)))
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert found.predictions.dtype == "int64" and found.radii.dtype == "float64"
    # Where there is no mistake in the box, both are the length of its diagonal.
    radii = np.minimum(expected.radii, max_radius or np.inf)
    assert np.all(found.radii <= radii * (1.0 + 1e-5))
    np.testing.assert_allclose(found.radii, radii, rtol=2e-3, atol=1e-5)
    assert 2 < np.sum(found.radii < np.max(found.radii))


@both
def test_without_steps_only_the_largest_radius_is_tried(method):
    model, x = _linear()
    exact = Linear(bounds=None).certify(model, x).radii
    radius = float(np.median(exact))
    found = method(bounds=None, max_radius=radius, num_steps=0).certify(model, x).radii
    np.testing.assert_array_equal(found, np.where(exact > radius, radius, 0.0))
    assert 3 < np.sum(found > 0.0) < 9


@tiers.parametrize("norm", ORDERS)
def test_the_search_does_not_exceed_the_box(norm, not_compiled):
    model, x = _linear()
    own, large = (Crown(norm, max_radius=most).certify(model, x).radii for most in (None, 900.0))
    np.testing.assert_array_equal(large, own)
    assert np.all(own > 0.0)
    # One radius that is tried alone is certified as it is, here of a model that never changes.
    model.layers[0].set_weights([np.zeros((4, 3)), np.arange(3.0)])
    np.testing.assert_array_equal(
        Crown(norm).at_radius(900.0, (0.0, 1.0)).certify(model, x).radii, 900.0
    )


@tiers.parametrize("num_steps", [3, 10])
def test_steps_are_the_precision(num_steps, not_compiled):
    model, x = _linear()
    fine, found = (
        Crown("L2", num_steps=count).certify(model, x).radii for count in (16, num_steps)
    )
    assert np.all(found <= fine) and np.all(fine - found <= fine * 2.0**-num_steps)
    assert np.max(fine - found) > 0.1 * 2.0**-num_steps * np.max(fine)


@tiers.parametrize("norm", ORDERS)
def test_one_logit_is_certified_like_two(norm, not_compiled):
    x = _points(6)
    model, twin = _dense(x, 6, 1), _dense(x, 6, 2)
    pair = [np.concatenate([0.0 * part, part], axis=-1) for part in model.get_weights()[2:]]
    twin.set_weights([*model.get_weights()[:2], *pair])
    found, expected = (Crown(norm).certify(one, x) for one in (model, twin))
    np.testing.assert_array_equal(found.predictions, np.asarray(model(x))[:, 0] > 0.0)
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    np.testing.assert_allclose(found.radii, expected.radii, rtol=1e-9)
    assert set(found.predictions) == {0, 1} and np.all(found.radii > 0.0)


_METHODS = [(AlphaCrown, "relu"), (Crown, "relu"), (Crown, "tanh"), (Crown, "gelu")]


@tiers.parametrize("norm", ORDERS)
@tiers.parametrize(("method", "activation"), _METHODS)
def test_radii_are_below_the_nearest_mistakes_that_fmn_finds(
    method, activation, norm, not_compiled
):
    x = _points(6)
    model = _dense(x, 6, 5, 3, activation=activation)
    options = {"num_iterations": 2} if method is AlphaCrown else {}
    found = method(norm, num_steps=2, **options).certify(model, x)
    attack = kr.attacks.FMN(num_steps=40)
    nearest = attack(model, x, found.predictions, getattr(kr, norm)(0.99))
    sizes = np.linalg.norm(nearest - x, ORDERS[norm], axis=-1)
    is_mistake = np.argmax(model(nearest), axis=-1) != found.predictions
    shares = found.radii[is_mistake] / sizes[is_mistake]
    assert len(shares) > 4 and np.all(shares <= 1.0 + 1e-5) and np.median(shares) > 0.5


class _Staged:
    """Bounds that fall with each stage, by as much as the labels say."""

    def __init__(self):
        self.calls = []

    def largest_margins(self, region, labels, num_iterations=0, inner_iterations=0, rounding=0.0):
        np.testing.assert_array_equal(np.asarray(region.x)[:, 0], labels)
        assert rounding == 1e-6
        self.calls.append((num_iterations, inner_iterations, labels.tolist()))
        return 2.5 - labels - (num_iterations > 0) - (inner_iterations > 0)


_STAGES = [(0, 0, [3, 0, 1, 2, 2]), (7, 0, [0, 1, 2, 2]), (7, 5, [0, 1])]


@pytest.mark.parametrize(
    ("inner", "proved"),
    [(0, [True, False, False, True, True]), (5, [True, False, True, True, True])],
)
def test_each_stage_gets_what_the_one_before_did_not_prove(inner, proved):
    linear, labels = _Staged(), np.array(_STAGES[0][2])

    def proves(labels):
        column = keras.ops.convert_to_tensor(labels[:, None].astype("float32"))
        region = InputRegion(column, labels.astype("float32"), column, column)
        return method.proves(linear, region, labels)

    method = AlphaCrown(num_iterations=7, inner_iterations=inner)
    np.testing.assert_array_equal(proves(labels), proved)
    assert linear.calls == _STAGES[: 3 if inner else 2]
    # Nothing is left for the second stage.
    np.testing.assert_array_equal(proves(np.array([3, 4])), True)
    assert linear.calls[-1] == (0, 0, [3, 4])


@pytest.mark.exhaustive
def test_optimized_radii_are_larger():
    x = _points(3)
    model = _dense(x, 6, 6, 3)
    options = {"max_radius": 0.4, "num_steps": 6}
    crown = Crown(**options).certify(model, x).radii
    some, more = (
        AlphaCrown(**options, num_iterations=5, inner_iterations=count).certify(model, x).radii
        for count in (0, 5)
    )
    assert np.all(crown <= some) and np.all(some <= more)
    assert np.mean(crown) < np.mean(some)


@tiers.parametrize("batch_size", [5, 1, 100])
def test_batches_and_chunks_do_not_change_the_radii(batch_size, not_compiled):
    model, x = _linear()
    expected = Crown("L2", num_steps=2).certify(model, x)
    found = Crown("L2", num_steps=2, chunk_size=5).certify(model, x, batch_size=batch_size)
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    np.testing.assert_allclose(found.radii, expected.radii, rtol=1e-9)


def test_a_margin_must_be_larger_than_the_rounding_of_float32():
    """The logits `(1e4 + 2 x, 1e4)` are 1e-2 apart at most: the rounding of float32 is 1e-3."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
    model.layers[0].set_weights([np.array([[2.0, 0.0]]), np.array([1e4, 1e4])])
    x = np.array([[0.1], [0.5]], "float32")
    found = Crown(num_steps=20).certify(model, x)
    # 0.01 is the slack, 1e-6 of the logits, and 2 the slope.
    np.testing.assert_allclose(found.radii, x[:, 0] - 0.005, atol=5e-4)


@pytest.mark.parametrize(("weight", "bias", "margin"), [(1e3, 0.0, 1e-5), (1.0, 100.0, 8e-6)])
def test_the_rounding_is_that_of_the_whole_ball_and_of_terms_that_cancel(weight, bias, margin):
    hidden, last = layers.Dense(2, activation="relu"), layers.Dense(2)
    model = sequential(hidden, last, shape=(1,))
    hidden.set_weights([np.array([[weight, weight]]), np.array([bias, bias])])
    last.set_weights([np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([margin, 0.0])])
    x = np.array([[0.0]], "float32")
    # At 0.9 the terms are 2 (0.9 weight + bias), and float32 has seven digits of them.
    assert Crown(max_radius=0.9, num_steps=0).certify(model, x).radii[0] == 0.0
    last.set_weights([last.kernel, np.array([1.0, 0.0])])
    assert Crown(max_radius=0.9, num_steps=0).certify(model, x).radii[0] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "L0"}, "`norm` must be one of .*Received: norm='L0'"),
        ({"bounds": None}, "the largest radius to try, is required.*max_radius=None"),
        ({"bounds": (1.0, 0.0)}, "low < high"),
        ({"max_radius": 0.0}, "`max_radius` must be a number above 0.*Received: max_radius=0.0"),
        ({"chunk_size": 0}, "`chunk_size` must be a whole number from 1 .*chunk_size=0"),
        ({"num_steps": -1}, "`num_steps` must be a whole number from 0 to 60.*num_steps=-1"),
    ],
)
def test_wrong_arguments(arguments, message):
    for method in (Crown, AlphaCrown):
        refusals.assert_argument_refused(method, message, **arguments)


@pytest.mark.parametrize(
    ("name", "least", "value"),
    [("num_iterations", 1, 0), ("inner_iterations", 0, -1), ("num_iterations", 1, 2.5)],
)
def test_wrong_counts_of_iterations(name, least, value):
    message = f"`{name}` must be a whole number from {least} .*{name}={value}"
    refusals.assert_argument_refused(AlphaCrown, message, **{name: value})


def test_config_round_trip():
    others, bounds = {"max_radius": 0.5, "num_steps": 7, "chunk_size": 64}, ([0.0, -1.0], 1.0)
    given = AlphaCrown("L1", bounds=bounds, **others, num_iterations=3, inner_iterations=2)
    for method in (Crown(), AlphaCrown(), Crown("L2", bounds=bounds, **others), given):
        again = kr.certification.get(keras.saving.serialize_keras_object(method))
        assert type(again) is type(method) and again.get_config() == method.get_config()
    found = again.get_config()
    expected = {"norm": "L1", **others, "num_iterations": 3, "inner_iterations": 2}
    assert {name: found[name] for name in expected} == expected
    assert isinstance(kr.certification.get("alpha_crown"), AlphaCrown)
    assert again.num_steps == 7 and kr.certification.get("crown").num_steps == 8


class _Odd(layers.Dense):
    def call(self, x):
        return -super().call(x)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([layers.Dense(3), layers.LayerNormalization(name="a")], "linear bound.*layer 'a' of cla"),
        ([_Odd(3, name="b")], "linear bound.*layer 'b' of class _Odd"),
        ([layers.Dense(3, "softmax"), layers.Dense(3, name="c")], "linear bound after a softmax"),
    ],
)
def test_layers_without_a_rule_are_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=f"No {message}"):
        Crown().certify(sequential(*parts, shape=(4,)), np.zeros((2, 4), "float32"))


@both
def test_models_about_which_a_proof_would_say_nothing_are_refused(method):
    x, ends = np.zeros((2, 4), "float32"), (layers.Dense(3, "softmax"), layers.Reshape((3,)))
    unknown = sequential(layers.Dense(1, "sigmoid"), layers.Reshape((1,)), shape=(4,))
    unknown.compile("sgd", "binary_crossentropy")
    low = sequential(layers.Dense(3, dtype="mixed_float16", name="low"), shape=(4,))
    image = sequential(layers.Conv2D(2, 1), shape=(2, 2, 1))
    for model, inputs, message in (
        (unknown, x, "end the model with a softmax .*'.*crossentropy'"),
        (sequential(*ends, shape=(4,)), x, "No linear bound after a softmax.*class Reshape"),
        (low, x, "layer 'low' of class Dense in float16"),
        (image, np.zeros((1, 2, 2, 1), "float32"), "one classification|classes"),
        (low, np.zeros((2, 5), "float32"), r"shape \(4,\), that of the model input"),
    ):
        with pytest.raises(ValueError, match=message):
            method().certify(model, inputs)
