import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import check_shares
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from tests.support import refusals
from tests.support import tiers

# The model returns its input as the logits.
X = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 4.0]], "float32")
X_ADV = np.array([[1.0, 2.0, 0.5], [0.0, 2.0, 1.5], [1.0, 5.0, 4.0]], "float32")
Y = np.array([0, 1, 2])


class Identity:
    loss = None

    def __call__(self, x):
        return 1.0 * x


def attack_loss(loss=None, targeted=False, y=Y, model=None):
    classifier = models.Classifier(model or Identity())
    x = keras.ops.convert_to_tensor(X)
    problem = kr.attacks.SearchProblem(classifier, x, y, threat_model=None, seed=None)
    return make_attack_loss(problem, loss, targeted)


@pytest.mark.parametrize("loss", [None, "cross_entropy", "margin", "dlr"])
def test_untargeted_maximises_the_loss_of_the_label(loss):
    values, success = attack_loss(loss)(X_ADV)
    np.testing.assert_allclose(
        values, kr.losses.FUNCTIONS[loss or "cross_entropy"](Y, X_ADV), rtol=1e-6
    )
    assert np.asarray(success).tolist() == [True, False, True]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_targeted_minimises_the_loss_of_the_target(loss):
    values, success = attack_loss(loss, targeted=True, y=np.array([1, 0, 2]))(X_ADV)
    expected = -kr.losses.FUNCTIONS[loss](np.array([1, 0, 2]), X_ADV)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    # Predictions are 1, 1, 1.
    assert np.asarray(success).tolist() == [True, False, False]


def test_least_likely_takes_the_target_at_the_clean_example():
    # The least likely classes at X are 2, 0 and 1; at X_ADV the third example has another one. Any
    # wrong class counts as success.
    values, success = attack_loss("margin", targeted="least_likely")(X_ADV)
    expected = -kr.losses.margin(np.array([2, 0, 1]), X_ADV)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert np.asarray(success).tolist() == [True, False, True]


def test_without_labels_the_clean_predictions_count():
    values, success = attack_loss("margin", y=None)(X_ADV)
    expected, wins = attack_loss("margin")(X_ADV)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(success, wins)


def test_kl_is_the_divergence_from_the_clean_prediction():
    values, success = attack_loss("kl")(X_ADV)
    np.testing.assert_allclose(values, kr.losses.kl_divergence(X, X_ADV), rtol=1e-5)
    assert np.asarray(success).tolist() == [True, False, True]


def test_a_function_of_labels_and_logits():
    values, _ = attack_loss(
        lambda y, logits: keras.ops.take_along_axis(logits, y[:, None], 1)[:, 0]
    )(X_ADV)
    np.testing.assert_array_equal(values, [1.0, 2.0, 4.0])
    values, _ = attack_loss(lambda y, logits: 2.0 * logits[:, 0], targeted=True)(X_ADV)
    np.testing.assert_array_equal(values, [-2.0, 0.0, -2.0])


def test_targets_must_be_given():
    with pytest.raises(ValueError, match="needs target labels. Received: targeted=True, y=None"):
        attack_loss(targeted=True, y=None)


def compiled(units, loss):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile("sgd", loss)
    return model


def test_a_model_compiled_for_regression_uses_its_own_loss():
    model = compiled(1, "mean_squared_error")
    target = np.array([[1.0], [2.0], [3.0]], "float32")
    values, success = attack_loss(model=model, y=target)(X_ADV)
    mean = np.mean((model.predict(X_ADV, verbose=0) - target) ** 2)
    np.testing.assert_allclose(values, [mean] * 3, rtol=1e-5)
    assert not np.asarray(success).any()


@tiers.parametrize(("loss", "expected"), [(None, "cross_entropy"), ("compiled", "mean")])
def test_a_compiled_classifier_uses_the_cross_entropy_by_default(loss, expected):
    model = compiled(3, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    values, _ = attack_loss(loss, model=model)(X_ADV)
    each = np.asarray(kr.losses.cross_entropy(Y, model.predict(X_ADV, verbose=0)))
    wanted = np.full(3, each.mean()) if expected == "mean" else each
    np.testing.assert_allclose(values, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "y", "targeted", "received"),
    [
        (None, Y, False, "loss=None"),
        (("dense", "mse"), None, False, "y=None"),
        (("dense", "mse"), Y, True, "targeted=True"),
    ],
)
def test_the_compiled_loss_needs_a_compiled_model_and_labels(model, y, targeted, received):
    model = model and compiled(3, "mean_squared_error")
    with pytest.raises(ValueError, match=f"needs a compiled model and labels.*{received}"):
        attack_loss("compiled", targeted, y, model)


def test_the_loss_of_a_float16_model_is_scaled_out_of_the_underflow():
    layer = keras.layers.Dense(3, dtype="mixed_float16")
    layer.build((None, 3))
    values, _ = attack_loss("margin", model=layer)(X_ADV)
    plain = kr.losses.margin(Y, keras.ops.cast(layer(X_ADV), "float32"))
    np.testing.assert_allclose(values, 256.0 * plain, rtol=1e-6)


def test_zero_gradient_is_reported_per_example():
    gradient = np.zeros((3, 2, 2), "float32")
    gradient[1, 0, 1] = -1e-30
    np.testing.assert_array_equal(zero_gradient(gradient), [True, False, True])


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (None, [0, 1, 2]),
        (np.array([2, 0, 1]), [2, 0, 1]),
        ({"label": np.array([[2.0], [0.0], [1.0]])}, [2, 0, 1]),
        (np.eye(3)[[2, 0, 1]], [2, 0, 1]),
    ],
)
def test_labels_are_class_indices(y, expected):
    indices = label_indices(y, X)
    assert keras.backend.standardize_dtype(indices.dtype) == "int32"
    assert np.asarray(indices).tolist() == expected


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("inf"), float("nan"), "1", None])
def test_numbers_must_be_positive(value):
    with refusals.assert_refused(f"`size` must be a number > 0. Received: {value!r}"):
        check_numbers(ok=1, size=value)
    if value == 0:
        check_numbers(or_zero=True, size=value)
    else:
        with refusals.assert_refused(f"`size` must be a number >= 0. Received: {value!r}"):
            check_numbers(or_zero=True, size=value)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, float("nan"), "1/2", None])
def test_a_share_lies_between_0_and_1(value):
    check_shares(one=0.01, other=0.99)
    with pytest.raises(ValueError, match="`gamma` must be a number > 0 and < 1.0. Received"):
        check_shares(ok=0.5, gamma=value)
