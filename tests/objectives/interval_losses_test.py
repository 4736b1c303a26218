import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_robust as kr
from keras_robust.certification.interval import ball_box
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.objectives.interval_losses import check_intervals
from keras_robust.objectives.interval_losses import interval_losses
from keras_robust.objectives.interval_losses import width_and_balance_penalty
from tests.support import forward_passes
from tests.support import gradients
from tests.support import refusals
from tests.support.bounded import sequential

RNG = np.random.default_rng(21)
TAU = 0.5


def _box(low, high):
    return IntervalBounds(*(ops.convert_to_tensor(end, "float32") for end in (low, high)))


def _reference(width, boxes):
    """The penalty by its formula in float64, from pairs of the ends of each box."""
    total = 0.0
    for low, high in boxes:
        centre = (low + high) / 2.0
        total += max(0.0, TAU - width / np.mean((high - low) / 2.0))
        active, inactive = centre[low > 0.0], centre[high < 0.0]
        spread = [np.sum((side - centre.mean()) ** 2) for side in (active, inactive)]
        for above, below in ((active.sum(), -inactive.sum()), spread):
            if above > 0.0 and below > 0.0:
                total += max(0.0, TAU - min(above / below, below / above))
    return total / (TAU * len(boxes))


def _random(shift, half, shape=(4, 30)):
    centre, radius = RNG.normal(size=shape) + shift, half * RNG.uniform(size=shape)
    return centre - radius, centre + radius


def _penalty(width, boxes):
    inputs = _box(np.full((4, 6), 0.5 - width), np.full((4, 6), 0.5 + width))
    return width_and_balance_penalty(inputs, [_box(*pair) for pair in boxes])


@pytest.mark.parametrize(
    ("shifts", "half"), [((0.5,), 0.3), ((1.0, -1.0), 0.8), ((0.6, 0.0, -2.0), 0.1)]
)
def test_is_the_formula(shifts, half):
    boxes = [_random(shift, half) for shift in shifts]
    expected = _reference(0.1, boxes)
    assert 0.0 < expected < 10.0
    assert float(_penalty(0.1, boxes)) == pytest.approx(expected, rel=1e-4)


def test_each_part_alone():
    # Symmetric centers: only the width is penalized, by 0.5 - 0.1 / 0.4.
    values = np.array([[1.0, -1.0, 2.0, -2.0]])
    assert float(_penalty(0.1, [(values - 0.4, values + 0.4)])) == pytest.approx(0.25 / TAU)
    # Narrow boxes; sums 1 and 5 of the centers, with mean -1: squares 4 and 0 + 9.
    values = np.array([[1.0, -1.0, -4.0, 0.0]])
    found = float(_penalty(0.1, [(values - 0.01, values + 0.01)]))
    assert found == pytest.approx((TAU - 1 / 5 + TAU - 4 / 9) / TAU, rel=1e-5)


def test_one_sided_units_and_a_single_point_give_finite_gradients():
    values = ops.convert_to_tensor(RNG.uniform(0.5, 1.0, size=(4, 5)), "float32")
    weight = keras.Variable(np.float32(1.0))
    for radius in (0.0, 0.2):

        def penalty(radius=radius):
            inner = IntervalBounds(weight * (values - radius), weight * (values + radius))
            return width_and_balance_penalty(_box(np.zeros((4, 2)), np.zeros((4, 2))), [inner])

        found, slope = gradients.of(penalty, weight)
        # The input has no width, and there are no inactive units.
        assert float(found) == pytest.approx(1.0)
        assert float(slope) == 0.0


def _model(*parts):
    model = sequential(*parts, shape=(6,))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _losses(model, regularization, **arguments):
    clean, _ = forward_passes.forward_passes(model, **arguments)
    ball = clean.batch.threat_model
    found = interval_losses(clean, ball_box(clean.x, ball.radius, ball.bounds), regularization)
    return [float(value) for value in found]


def test_the_boxes_are_those_in_front_of_every_relu():
    hidden = [layers.Dense(20, activation="relu"), layers.Dense(15), layers.ReLU()]
    model = _model(*hidden, layers.Dense(3))
    (first, b1), (second, b2) = (model.layers[i].get_weights() for i in (0, 1))
    low, high = (np.clip(forward_passes.X + sign * 0.1, 0.0, 1.0) for sign in (-1.0, 1.0))
    width, boxes = np.mean((high - low) / 2.0), []
    for kernel, bias in ((first, b1), (second, b2)):
        centre, radius = (high + low) / 2.0 @ kernel + bias, (high - low) / 2.0 @ np.abs(kernel)
        boxes.append((centre - radius, centre + radius))
        low, high = (np.maximum(end, 0.0) for end in boxes[-1])
    expected = _reference(width, boxes)
    assert expected > 0.1
    assert _losses(model, 0.5)[1] == pytest.approx(0.5 * expected, rel=1e-4)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.4, 10, 0.0)
    assert _losses(model, schedule, iteration=5)[1] == pytest.approx(0.2 * expected, rel=1e-4)
    # It is no mean over examples, so neither their weights nor a sum change it.
    weighted = _losses(model, 0.5, sample_weight=forward_passes.SAMPLE_WEIGHT)
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    )
    for found in (weighted, _losses(model, 0.5)):
        assert found[1] == pytest.approx(0.5 * expected, rel=1e-4)


def test_no_weight_or_no_relu_is_no_penalty():
    assert _losses(_model(layers.Dense(4, activation="relu"), layers.Dense(3)), 0.0)[1] == 0.0
    assert _losses(forward_passes.model(), 0.5)[1] == 0.0


def test_refusals_name_the_objective():
    model = _model(layers.Dense(3))
    for objective in (kr.objectives.IBP(), kr.objectives.MTLIBP(), kr.objectives.SABR()):
        with refusals.assert_refused("need Linf: use.*Received: L2"):
            objective.check(model, kr.L2(0.1))
        odd = _model(layers.LayerNormalization(), layers.Dense(3))
        with refusals.assert_refused("LayerNormalization"):
            objective.check(odd, kr.Linf(0.1))
        open_model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(3, 2)])
        name = type(objective).__name__
        with refusals.assert_refused(rf"{name} must know the shape.*\(None, 3\)"):
            check_intervals(objective, open_model, kr.Linf(0.1))
        refusals.assert_argument_refused(
            type(objective), "`regularization` must be a number from 0", regularization=-1.0
        )
