import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from keras_robust.attacks.decision_based import decision_oracle as module
from tests.support import black_box
from tests.support import linear_model

SEEDS = np.array([[1, 2], [1, 5], [4, 2]], "int32")


def make(function, x, y, bounds=(0.0, 1.0), num_classes=2):
    model = black_box.BlackBox(function, num_classes)
    return module.DecisionOracle(models.Classifier(model), x, y, bounds), model


def by_first(x):
    """Returns logits of class 1 where the first coordinate is above 0.5."""
    return np.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=-1)


def test_reports_misclassified_points_per_example_and_sample():
    x = np.random.default_rng(0).uniform(size=(3, 4, 12)).astype("float32")
    y = np.array([0, 1, 0])
    decisions, model = make(black_box.linear, x[:, 0], y)
    expected = np.stack([black_box.linear(row).argmax(-1) for row in x]) != y[:, None]
    assert 2 < expected.sum() < 10
    samples = keras.ops.convert_to_tensor(x)
    np.testing.assert_array_equal(decisions.any_wrong(samples, 4), expected)
    np.testing.assert_array_equal(decisions.wrong(samples[:, 2]), expected[:, 2])
    assert model.calls == [3, 12, 3]


@pytest.mark.parametrize("y", [None, [1, 0], [[0.1, 0.9], [0.6, 0.4]]])
def test_labels_may_be_rows_or_predictions(y):
    x = np.array([[0.9], [0.2]], "float32")
    decisions, _ = make(by_first, x, None if y is None else np.array(y))
    other = keras.ops.convert_to_tensor([[0.7], [0.8]])
    np.testing.assert_array_equal(decisions.wrong(other), [False, True])


def test_non_finite_logits_are_no_mistake():
    x = np.array([[0.2], [0.2], [0.2]], "float32")
    function = lambda x: np.where(x > 0.9, np.nan, by_first(x))  # noqa: E731
    decisions, _ = make(function, x, np.zeros(3, int))
    points = keras.ops.convert_to_tensor([[0.95], [0.8], [0.3]])
    np.testing.assert_array_equal(decisions.wrong(points), [False, True, False])


def test_clips_to_a_box_per_channel():
    bounds = (np.array([0.0, -1.0], "float32"), np.array([1.0, 2.0], "float32"))
    decisions, _ = make(by_first, np.zeros((1, 2), "float32"), None, bounds)
    clipped = decisions.clip(np.array([[-3.0, -3.0], [3.0, 3.0]], "float32"))
    np.testing.assert_array_equal(clipped, [[0.0, -1.0], [1.0, 2.0]])


def test_bisection_ends_just_behind_the_first_mistake():
    limits = np.array([0.3, 0.77, 0.5001], "float32")
    x = np.zeros((3, 1), "float32")

    class Known:
        def clip(self, points):
            return points

        def wrong(self, points):
            return points[:, 0] > limits

    end = np.asarray(module.bisect(Known(), lambda share: share[:, None], x, 12))[:, 0]
    assert np.all(end > limits) and np.all(end <= limits + 2.0**-12)


@pytest.mark.exhaustive
def test_a_start_lies_on_the_line_to_the_first_misclassified_draw():
    x = np.array([[0.1, 0.2], [0.4, 0.5], [0.45, 0.9]], "float32")
    decisions, model = make(by_first, x, np.zeros(3, int))
    start = module.initial_adversarial(decisions, keras.ops.convert_to_tensor(x), SEEDS, 50)
    draws = [np.asarray(backend.uniform((3, 2), SEEDS + np.array([i, 0]))) for i in range(50)]
    for i in range(3):
        number = next(n for n, draw in enumerate(draws) if draw[i, 0] > 0.5)
        way = draws[number][i] - x[i]
        share = np.ceil((0.5 - x[i, 0]) / way[0] * 1024) / 1024
        np.testing.assert_allclose(start.x_adv[i], x[i] + share * way, rtol=0, atol=1e-5)
        assert start.found[i] and start.queries[i] == number + 1 + 10


@pytest.mark.exhaustive
def test_draws_fill_the_box():
    x = np.zeros((400, 2), "float32")
    seeds = np.stack([np.arange(400), np.arange(400)], axis=-1).astype("int32")
    bounds = (np.array([-3.0, 2.0], "float32"), np.array([-1.0, 6.0], "float32"))
    everywhere = lambda x: np.tile([[0.0, 1.0]], (len(x), 1))  # noqa: E731
    decisions, _ = make(everywhere, x, np.zeros(400, int), bounds)
    # Every point is misclassified, so that the bisection ends at 1/1024 of the way to the draw.
    start = module.initial_adversarial(decisions, keras.ops.convert_to_tensor(x), seeds, 3)
    points = np.asarray(backend.uniform(x.shape, seeds)) * [2.0, 4.0] + [-3.0, 2.0]
    np.testing.assert_allclose(start.x_adv, np.clip(points / 1024, *bounds), rtol=0, atol=1e-5)
    assert points.min(0) == pytest.approx([-3.0, 2.0], abs=0.05)
    assert points.max(0) == pytest.approx([-1.0, 6.0], abs=0.05)


def test_without_a_mistake_there_is_no_start():
    x = np.full((3, 2), 0.25, "float32")
    never = lambda x: np.tile([[1.0, 0.0]], (len(x), 1))  # noqa: E731
    decisions, model = make(never, x, np.zeros(3, int))
    start = module.initial_adversarial(decisions, keras.ops.convert_to_tensor(x), SEEDS, 7)
    assert not np.asarray(start.found).any() and np.asarray(start.queries).tolist() == [7, 7, 7]
    np.testing.assert_array_equal(start.x_adv, x)


@pytest.mark.parametrize("name", ["HopSkipJump", "Boundary"])
def test_unsupported_threat_models_are_named(name):
    x, y = linear_model.examples()
    attack, model = getattr(kr.attacks, name)(), linear_model.keras_model()
    norms = "L2 or Linf" if name == "HopSkipJump" else "L2"
    message = f"{name} supports only {norms}, over one input. Received: "
    with pytest.raises(ValueError, match=message + "L1"):
        attack(model, x, y, kr.L1(1.0))
    with pytest.raises(ValueError, match=message + "PerInput"):
        attack(
            lambda inputs: linear_model.logits(inputs["a"]),
            {"a": x, "b": x},
            y,
            kr.threat_models.PerInput({"a": kr.L2(1.0)}),
        )
    with pytest.raises(ValueError, match=f"{name} starts at uniform draws.*needs bounds.*None"):
        attack(model, x, y, kr.L2(1.0, bounds=None))
