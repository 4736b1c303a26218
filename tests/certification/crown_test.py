import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_robust as kr
from keras_robust import backend
from keras_robust.certification.linear_bounds import crown_margins
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_bounds import worst_margins
from keras_robust.certification.interval_rules import propagate_box
from tests.support import tiers
from tests.support.bounded import IMAGE
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
LABELS = np.array([3, 0, 2])


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def _box(x, radius):
    return IntervalBounds(
        *(ops.convert_to_tensor(x + sign * radius, "float64") for sign in (-1.0, 1.0))
    )


def _lines(low, high):
    """Returns the lines above each ReLU as (slope, offset), and the slopes of the lines below."""
    upper, lower = [], []
    for a, b in zip(low, high, strict=True):
        if a >= 0.0:
            upper, lower = [*upper, (1.0, 0.0)], [*lower, 1.0]
        elif b <= 0.0:
            upper, lower = [*upper, (0.0, 0.0)], [*lower, 0.0]
        else:
            slope = b / (b - a)
            upper, lower = [*upper, (slope, -slope * a)], [*lower, 1.0 if b > -a else 0.0]
    return upper, lower


def _by_hand(weights, x, radius, y):
    """Returns the bounds of one example, neuron by neuron, for Dense layers with ReLU between."""
    (first, b1), (second, b2), (last, b3) = weights
    low, high = x - radius, x + radius
    lines = []
    for kernel, bias in ((first, b1), (second, b2)):
        centre, reach = (low + high) / 2 @ kernel + bias, (high - low) / 2 @ np.abs(kernel)
        low, high = centre - reach, centre + reach
        lines.append(_lines(low, high))
        low, high = np.maximum(low, 0.0), np.maximum(high, 0.0)
    found = []
    for j in range(last.shape[1]):
        slopes, offset = last[:, j] - last[:, y], b3[j] - b3[y]
        for (kernel, bias), (upper, lower) in zip(
            ((second, b2), (first, b1)), lines[::-1], strict=True
        ):
            for i, slope in enumerate(slopes):
                offset += slope * upper[i][1] if slope > 0.0 else 0.0
                slopes[i] = slope * (upper[i][0] if slope > 0.0 else lower[i])
            offset += slopes @ bias
            slopes = kernel @ slopes
        found.append(slopes @ x + np.abs(slopes) @ radius + offset)
    return found


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.4])
def test_the_bound_is_that_of_the_paper(radius):
    model = sequential(
        layers.Dense(7, activation="relu"),
        layers.Dense(5),
        layers.ReLU(),
        layers.Dense(4),
        shape=(6,),
    )
    weights = [layer.get_weights() for layer in model.layers if layer.weights]
    weights = [[part.astype("float64") for part in pair] for pair in weights]
    x = RNG.normal(size=(3, 6))
    # A different radius for every feature.
    radii = radius * np.linspace(0.0, 2.0, 6)
    found = crown_margins(model, _box(x, radii), ops.convert_to_tensor(LABELS))
    rows = zip(x, LABELS, strict=True)
    expected = [_by_hand(weights, row, radii, label) for row, label in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found)[range(3), LABELS], 0.0, atol=1e-12)


# One model for each kind of affine layer.
MODELS = {
    "convolution": (layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),),
    "batch norm": (layers.BatchNormalization(), layers.ReLU(), layers.AveragePooling2D(2)),
    "rescaling": (layers.Rescaling([-2.0, 0.5], 0.1), layers.ReLU(), layers.ZeroPadding2D(1)),
    "cropping": (layers.Activation("relu"), layers.Cropping2D(1), layers.Permute((2, 1, 3))),
    "lipschitz": (kr.layers.OrthogonalConv2D(4, 2, strides=2), layers.ReLU(), layers.Dropout(0.5)),
}


def _model(name):
    head = (layers.Flatten(), layers.Dense(6, activation="relu"), layers.Dense(4))
    return sequential(*MODELS[name], *head)


@tiers.parametrize("name", MODELS)
def test_no_point_has_larger_margins_and_intervals_are_wider(name):
    model, radius = _model(name), 0.05
    x, labels = RNG.uniform(size=(3, *IMAGE)), ops.convert_to_tensor(LABELS)
    box = _box(x, radius)
    found = np.asarray(crown_margins(model, box, labels))
    points = x[:, None] + radius * np.clip(RNG.normal(size=(3, 2000, *IMAGE), scale=3.0), -1, 1)
    z = np.asarray(model(points.reshape(-1, *IMAGE).astype("float32"))).reshape(3, 2000, 4)
    margins = z - z[np.arange(3), :, LABELS][..., None]
    assert np.all(margins <= found[:, None] + 1e-4)
    intervals = np.asarray(worst_margins(propagate_box(model, box), labels))
    others = np.arange(4) != LABELS[:, None]
    assert np.mean(found[others]) < np.mean(intervals[others])


def test_one_output_stands_for_two_logits():
    model = sequential(layers.Dense(5, activation="relu"), layers.Dense(1), shape=(3,))
    twin = sequential(layers.Dense(5, activation="relu"), layers.Dense(2), shape=(3,))
    kernel, bias = model.layers[1].get_weights()
    zero = [np.hstack([0.0 * weight, weight]) for weight in (kernel, bias)]
    twin.set_weights([*model.layers[0].get_weights(), *zero])
    box, labels = _box(RNG.normal(size=(2, 3)), 0.2), ops.convert_to_tensor([0, 1])
    np.testing.assert_allclose(*(crown_margins(one, box, labels) for one in (model, twin)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.MaxPooling2D(2, name="a"), "layer 'a' of class MaxPooling2D"),
        (layers.Dense(3, activation="tanh", name="b"), "layer 'b' of class Dense"),
        (layers.ReLU(max_value=1.0, name="c"), "layer 'c' of class ReLU"),
        (layers.Softmax(name="d"), "layer 'd' of class Softmax"),
    ],
)
def test_other_layers_are_refused_by_name(layer, message):
    x = np.zeros((1, *IMAGE))
    with pytest.raises(ValueError, match=f"No linear bound.*{message}"):
        crown_margins(sequential(layer), _box(x, 0.1), ops.convert_to_tensor([0]))


def test_merges_are_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Add()([inputs, layers.Dense(3)(inputs)]))
    with pytest.raises(ValueError, match="No linear bound.*of class Add"):
        crown_margins(model, _box(np.zeros((1, 3)), 0.1), ops.convert_to_tensor([0]))
