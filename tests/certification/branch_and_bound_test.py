import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_robust import backend
from keras_robust.certification import branch_and_bound
from keras_robust.certification.branch_and_bound import BranchAndBound
from keras_robust.certification.input_region import InputRegion
from keras_robust.certification.linear_bounds import LinearBounds
from tests.certification import optimized_lines_test as exact
from tests.support import tiers
from tests.support.bounded import randomise
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


class Search:
    """Decides examples of a model, in float64 and without a slack.

    Args:
        model: `keras.Model`.
        shape: tuple, the shape of an example.
    """

    def __init__(self, model, shape):
        self.model, self.linear = model, LinearBounds(model, shape, "Linf", 256)
        self._search = BranchAndBound(self.linear, 8)

    def decide(self, x, radius, seconds=60.0):
        label = self.label(x)

        def find_mistake(points):
            wrong = [point for point in points if self.label(point) != label]
            return wrong[0] if wrong else None

        return self._search.decide(region(x, radius), label, 0.0, find_mistake, seconds)

    def label(self, x):
        return int(np.argmax(self.model(x[None].astype("float32"))))


def region(x, radius):
    tensor = ops.convert_to_tensor(x[None].astype("float64"))
    return InputRegion.around(tensor, ops.convert_to_tensor(np.array([radius])), None)


def dense(*units, inputs):
    hidden = [layers.Dense(count, activation="relu") for count in units[:-1]]
    return sequential(*hidden, layers.Dense(units[-1]), shape=(inputs,))


@tiers.parametrize("units", [(6, 3), (5, 4, 3), (4, 3, 3, 2)])
def test_the_outcome_is_that_of_enumeration(units):
    model = dense(*units, inputs=3)
    search, weights, found = Search(model, (3,)), exact.weights_of(model), []
    for x in RNG.normal(size=(4, 3)):
        for radius in (0.05, 0.4, 3.0):
            ends = x - radius, x + radius
            largest = exact._exact(weights, *ends, search.label(x))
            # Nearer to 0 than this, the float32 model and the float64 bounds may disagree.
            if abs(largest) < 1e-4:
                continue
            outcome, point = search.decide(x, radius)
            assert outcome == ("proved" if largest < 0.0 else "broken")
            assert (point is None) == (outcome == "proved")
            if point is not None:
                assert np.max(np.abs(point - x)) <= radius + 1e-6
            found.append(outcome)
    assert len(found) >= 8 and set(found) == {"proved", "broken"}


@pytest.mark.exhaustive
def test_signs_decide_where_one_bound_does_not():
    search, found = Search(dense(12, 12, 3, inputs=4), (4,)), []
    for x in RNG.normal(size=(6, 4)):
        label = np.array([search.label(x)])
        for radius in np.linspace(0.02, 0.5, 12):
            if search.linear.largest_margins(region(x, radius), label, 20, 20)[0] >= 0.0:
                # Alpha-CROWN does not decide this radius.
                found.append(search.decide(x, radius)[0])
                break
    assert len(found) >= 4 and found.count("proved") >= 1 and "inconclusive" not in found


@pytest.mark.exhaustive
def test_maxima_and_merges_are_split_too():
    inputs = keras.Input((4, 4, 1))
    hidden = layers.Conv2D(2, 2, activation="relu")(inputs)
    hidden = layers.MaxPooling2D(2)(layers.Add()([hidden, hidden]))
    model = randomise(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(hidden))))
    search, x, outcomes = Search(model, (4, 4, 1)), RNG.uniform(size=(4, 4, 1)), []
    for radius in (0.01, 0.05, 0.2, 1.0):
        outcome, _ = search.decide(x, radius)
        outcomes.append(outcome)
        points = x + radius * np.clip(RNG.normal(size=(2000, 4, 4, 1), scale=2.0), -1, 1)
        same = np.argmax(model(points.astype("float32")), axis=-1) == search.label(x)
        assert outcome != "proved" or np.all(same)
    assert outcomes[0] == "proved" and outcomes[-1] == "broken"
    # A larger ball never has fewer mistakes.
    assert outcomes == sorted(outcomes, key=["proved", "broken"].index)


def test_without_time_nothing_is_claimed():
    search = Search(dense(4, 3, inputs=3), (3,))
    assert search.decide(np.zeros(3), 0.1, seconds=-1.0) == ("inconclusive", None)
    assert search.decide(np.zeros(3), 1e-6)[0] == "proved"


def test_layers_are_relus_too():
    hidden = layers.Dense(3), layers.BatchNormalization(), layers.ReLU()
    search = Search(sequential(*hidden, layers.Dense(2), shape=(3,)), (3,))
    assert search.decide(RNG.normal(size=3), 1e-6) == ("proved", None)
    with pytest.raises(ValueError, match="splits ReLUs.*Received: 1 activations that are not"):
        Search(sequential(layers.Dense(3), layers.ReLU(max_value=6.0), shape=(3,)), (3,))


@tiers.parametrize("solves", [True, False])
def test_later_stages_decide_what_the_first_search_leaves_open(monkeypatch, solves):
    monkeypatch.setattr(branch_and_bound, "_FIRST_SHARE", 0.0)
    asked, solve = [], BranchAndBound._solve

    def noted(self, problem, indices, *arguments):
        asked.extend(indices)
        if solves:
            return solve(self, problem, indices, *arguments)
        # The last search gets what no program has decided.
        return "inconclusive", None, list(indices)

    monkeypatch.setattr(BranchAndBound, "_solve", noted)
    model = dense(4, 4, 3, inputs=3)
    search, weights, found = Search(model, (3,)), exact.weights_of(model), []
    for x in np.random.default_rng(0).normal(size=(2, 3)):
        for radius in (0.5, 1.5, 3.0):
            value = exact._exact(weights, x - radius, x + radius, search.label(x))
            if abs(value) < 1e-2:
                continue
            outcome, _ = search.decide(x, radius)
            assert outcome == ("proved" if value < 0.0 else "broken")
            found.append(outcome)
    assert asked and set(found) == {"proved", "broken"}


def test_what_is_no_number_proves_nothing(monkeypatch):
    search = Search(dense(4, 3, inputs=3), (3,))
    found = search._search._bounds
    monkeypatch.setattr(
        search._search,
        "_bounds",
        lambda *arguments: (np.nan * found(*arguments)[0], *found(*arguments)[1:]),
    )
    assert search.decide(np.zeros(3), 1e-6, seconds=0.5)[0] != "proved"


def test_a_model_without_relus_is_decided_exactly():
    model = sequential(layers.Dense(2), shape=(2,))
    model.set_weights([np.array([[1.0, -1.0], [0.5, -0.5]]), np.zeros(2)])
    search, x = Search(model, (2,)), np.array([0.4, 0.2])
    # z0 - z1 = 2 x0 + x1 = 1, and it falls by 3 times the radius.
    assert search.decide(x, 0.33) == ("proved", None)
    outcome, point = search.decide(x, 0.34)
    assert outcome == "broken"
    np.testing.assert_allclose(point, x - 0.34, atol=1e-6)


def test_other_activations_are_refused():
    model = sequential(layers.Dense(4, activation="tanh"), layers.Dense(3), shape=(3,))
    with pytest.raises(ValueError, match="splits ReLUs.*Received: 1 activations that are not"):
        Search(model, (3,))
