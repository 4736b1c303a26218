import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_robust as kr
from keras_robust import backend
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_bounds import worst_margins
from keras_robust.certification.interval_rules import propagate_box
from keras_robust.certification.linear_bounds import LinearBounds
from keras_robust.certification.linear_bounds import crown_margins
from tests.certification import backward_bounds_test as bounds
from tests.certification import optimized_lines_test as networks
from tests.support import tiers
from tests.support.bounded import IMAGE
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
LABELS = np.array([3, 0, 2])
region_of, not_compiled = bounds.region_of, bounds.not_compiled


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


def _above(slopes, weights, lines, x, radii, dual):
    """Returns the bound of `<slopes, z>` for the outputs `z` of the last Dense layer."""
    offset = 0.0
    for number in reversed(range(len(weights))):
        kernel, bias = weights[number]
        offset, slopes = offset + slopes @ bias, kernel @ slopes
        if number == 0:
            return offset + slopes @ x + np.linalg.norm(slopes * radii, dual)
        upper, lower = lines[number - 1]
        for i, slope in enumerate(slopes):
            offset += slope * upper[i][1] if slope > 0.0 else 0.0
            slopes[i] = slope * (upper[i][0] if slope > 0.0 else lower[i])


def _by_hand(weights, x, radii, y, is_tightened, dual=1):
    """Returns the bounds of one example, neuron by neuron, for Dense layers with ReLU between."""
    first, last, lines = x - radii, x + radii, []
    for number in range(1, len(weights)):
        kernel, bias = weights[number - 1]
        centre, reach = (first + last) / 2 @ kernel + bias, (last - first) / 2 @ np.abs(kernel)
        first, last = centre - reach, centre + reach
        unstable = np.nonzero((first < 0.0) & (last > 0.0))[0] if is_tightened else ()
        for i in unstable:
            own, known = np.eye(len(bias))[i], (weights[:number], lines, x, radii, dual)
            last[i] = min(last[i], _above(own, *known))
            first[i] = max(first[i], -_above(-own, *known))
        lines.append(_lines(first, last))
        first, last = np.maximum(first, 0.0), np.maximum(last, 0.0)
    classes = np.eye(weights[-1][0].shape[1])
    return [_above(own - classes[y], weights, lines, x, radii, dual) for own in classes]


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.4])
def test_the_bound_is_that_of_the_paper(radius):
    model = sequential(
        layers.Dense(7, activation="relu"),
        layers.Dense(5),
        layers.ReLU(),
        layers.Dense(4),
        shape=(6,),
    )
    x = RNG.normal(size=(3, 6))
    # A different radius for every feature.
    radii = radius * np.linspace(0.0, 2.0, 6)
    found = crown_margins(model, _box(x, radii), ops.convert_to_tensor(LABELS))
    rows = zip(x, LABELS, strict=True)
    weights = networks.weights_of(model)
    expected = [_by_hand(weights, row, radii, y, False) for row, y in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found)[range(3), LABELS], 0.0, atol=1e-12)


# One model for each kind of affine layer.
MODELS = {
    "convolution": (layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),),
    "batch norm": (layers.BatchNormalization(), layers.ReLU(), layers.AveragePooling2D(2)),
    "rescaling": (layers.Rescaling([-2.0, 0.5], 0.1), layers.ReLU(), layers.ZeroPadding2D(1)),
    "cropping": (layers.Activation("relu"), layers.Cropping2D(1), layers.Permute((2, 1, 3))),
    "lipschitz": (kr.layers.OrthogonalConv2D(4, 2, strides=2), layers.ReLU(), layers.Dropout(0.5)),
    "capped": (layers.ReLU(0.8),),
}


@tiers.parametrize("name", MODELS)
def test_no_point_has_larger_margins_and_intervals_are_wider(name):
    head = (layers.Flatten(), layers.Dense(6, activation="relu"), layers.Dense(4))
    model, radius = sequential(*MODELS[name], *head), 0.05
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
    model, twin = networks.dense(5, 1, inputs=3), networks.dense(5, 2, inputs=3)
    kernel, bias = model.layers[1].get_weights()
    zero = [np.hstack([0.0 * weight, weight]) for weight in (kernel, bias)]
    twin.set_weights([*model.layers[0].get_weights(), *zero])
    x, labels = RNG.normal(size=(2, 3)), np.array([0, 1])
    box = _box(x, 0.2)
    found = [crown_margins(one, box, ops.convert_to_tensor(labels)) for one in (model, twin)]
    np.testing.assert_allclose(*found)
    region = region_of(x, 0.2)
    linear = [LinearBounds(one, (3,), "Linf", 8) for one in (model, twin)]
    np.testing.assert_allclose(*(one.largest_margins(region, labels) for one in linear))


def test_final_activations_are_removed():
    plain, x, labels = networks.dense(5, 3), RNG.normal(size=(2, 6)), np.array([0, 2])
    expected = crown_margins(plain, _box(x, 0.2), ops.convert_to_tensor(labels))
    for end in (layers.Softmax(), layers.Activation("softmax"), layers.Activation("sigmoid")):
        model = sequential(*plain.layers, end, shape=(6,))
        model.set_weights(plain.get_weights())
        found = crown_margins(model, _box(x, 0.2), ops.convert_to_tensor(labels))
        np.testing.assert_allclose(found, expected)


def test_outputs_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match=r"one classification.*Received: .*\(None, 6, 5, 2\)"):
        crown_margins(sequential(layers.ReLU()), _box(np.zeros((1, *IMAGE)), 0.1), 0)
    linear = LinearBounds(sequential(layers.ReLU()), IMAGE, "L2", 8)
    with pytest.raises(ValueError, match="one classification"):
        linear.largest_margins(region_of(np.zeros((1, *IMAGE)), 0.1), np.array([0]))


def _margins(model, x, labels, radius, norm="Linf", chunk_size=64):
    linear = LinearBounds(model, x.shape[1:], norm, chunk_size)
    return linear.largest_margins(region_of(x, radius), labels)


@pytest.mark.parametrize(("norm", "radius"), [("Linf", 0.1), ("L2", 0.3), ("L1", 0.6)])
def test_inner_layers_are_bounded_backward_neuron_by_neuron(norm, radius, request):
    if norm != "Linf":
        request.getfixturevalue("not_compiled")
    model = networks.dense(7, 6, 5, 4)
    weights, x, dual = networks.weights_of(model), RNG.normal(size=(3, 6)), bounds.DUALS[norm]
    found = _margins(model, x, LABELS, radius, norm)
    expected, looser = (
        [
            np.max(np.delete(_by_hand(weights, row, radius, y, is_tightened, dual), y))
            for row, y in zip(x, LABELS, strict=True)
        ]
        for is_tightened in (True, False)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.mean(expected) < np.mean(looser)


@tiers.parametrize("radius", [0.3, 0.5])
def test_the_bound_is_above_the_exact_maximum_and_below_that_of_intervals(radius, not_compiled):
    model = networks.dense(3, 3, 3, inputs=2)
    x, labels = RNG.normal(size=(4, 2)), np.array([0, 1, 2, 0])
    found, expected = (
        _margins(model, x, labels, radius),
        networks.exact_margins(model, x, labels, radius),
    )
    assert np.all(found >= np.array(expected) - 1e-9)
    box = propagate_box(model, _box(x, radius))
    intervals = np.asarray(worst_margins(box, ops.convert_to_tensor(labels)))
    intervals = np.max(np.where(np.eye(3)[labels] == 1.0, -np.inf, intervals), axis=-1)
    gaps = [np.mean(bound - expected) for bound in (found, intervals)]
    assert 1e-3 < gaps[0] < 0.8 * gaps[1]


def test_the_bound_is_exact_where_no_neuron_changes_its_sign(not_compiled):
    model = networks.dense(3, 3, 3, inputs=2)
    x, labels = RNG.normal(size=(4, 2)), np.array([0, 1, 2, 0])
    found, expected = (
        _margins(model, x, labels, 1e-4),
        networks.exact_margins(model, x, labels, 1e-4),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@tiers.parametrize("norm", ["L2", "L1", "Linf"])
def test_chunks_and_other_examples_change_nothing(norm, not_compiled):
    model = networks.dense(5, 4, 4)
    x, labels = RNG.normal(size=(5, 6)), np.array([0, 1, 2, 3, 0])
    expected = _margins(model, x, labels, 0.3, norm, 1000)
    np.testing.assert_allclose(_margins(model, x, labels, 0.3, norm, 3), expected, rtol=1e-9)
    linear = LinearBounds(model, (6,), norm, 16)
    for rows in ([4], [3, 2, 0]):
        found = linear.largest_margins(region_of(x[rows], 0.3), labels[rows])
        np.testing.assert_allclose(found, expected[rows], rtol=1e-9)


def test_the_terms_of_a_logit_do_not_cancel(not_compiled):
    model = networks.dense(2, 2, inputs=1)
    kernel = np.array([[3.0, 1.0], [-3.0, 0.5]])
    model.set_weights([np.array([[1.0, 1.0]]), np.zeros(2), kernel, np.array([-0.25, 0.0])])
    linear = LinearBounds(model, (1,), "Linf", 16)
    inner = linear.inner_bounds(region_of(np.array([[0.5], [1.0]]), 0.5))
    # The hidden units reach 1 and 1.5, where the first logit is 3 h - 3 h - 1/4.
    np.testing.assert_allclose(linear.term_sizes(inner), [6.25, 9.25])
    found = linear.largest_margins(region_of(np.array([[0.5]]), 0.5), np.array([1]), rounding=0.1)
    without = linear.largest_margins(region_of(np.array([[0.5]]), 0.5), np.array([1]))
    np.testing.assert_allclose(found - without, 0.625)


def test_probabilities_whose_logits_are_unknown_are_refused():
    model = sequential(layers.Dense(3, "sigmoid"), layers.Dropout(0.5), shape=(2,))
    LinearBounds(model, (2,), "L2", 8)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="end the model with a softmax"):
        LinearBounds(model, (2,), "L2", 8)
