import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.threat_models.threat_model_wrapper import ThreatModelWrapper
from keras_robust.threat_models.threat_model_wrapper import get_plain

X = np.array([[0.2, 0.5], [0.6, 0.9]], "float32")
X_ADV = np.array([[0.9, -0.4], [0.65, 0.9]], "float32")
SEED = np.array([1, 2])


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_delegates_to_the_wrapped_threat_model(norm):
    inner = kr.threat_models.get(norm).with_epsilon(0.3)
    ball = ThreatModelWrapper(inner)
    for name, arguments in {
        "project": (X_ADV, X),
        "steepest_direction": (X_ADV,),
        "linear_maximization_oracle": (X_ADV, X),
        "random_start": (X, SEED),
        "distance": (X_ADV, X),
        "step": (X, X_ADV, 0.1),
        "contains": (X_ADV, X, 1e-3),
    }.items():
        expected = getattr(inner, name)(*arguments)
        np.testing.assert_array_equal(getattr(ball, name)(*arguments), expected, err_msg=name)
    assert (ball.epsilon, ball.bounds, float(ball.radius)) == (0.3, (0.0, 1.0), np.float32(0.3))
    assert ball.get_config()["threat_model"]["class_name"] == type(inner).__name__


def test_changes_are_made_to_a_copy_around_a_copy():
    inner = kr.L2(0.4)
    ball = ThreatModelWrapper(inner)
    assert ball.with_epsilon(0.1).threat_model.epsilon == 0.1
    assert float(ball.scaled(0.5).radius) == pytest.approx(0.2)
    assert ball.without_bounds().bounds is None
    assert ball.with_bounds((0, 2)).bounds == (0.0, 2.0)
    assert ball.threat_model is inner
    assert repr(ball.with_epsilon(0.1)) == (
        "ThreatModelWrapper(threat_model=L2(epsilon=0.1, bounds=(0.0, 1.0)))"
    )


def test_schedules():
    ball = ThreatModelWrapper(kr.L2(keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.4)))
    assert ball.is_scheduled
    assert float(ball.at(5).radius) == pytest.approx(0.2)
    assert not ball.at(5).is_scheduled


def test_arrays_are_for_features_and_not_for_examples():
    features = ThreatModelWrapper(kr.Linf([0.1, 0.2]))
    features.check_shape((5, 3, 2))
    np.testing.assert_allclose(features.epsilon_for_rows(np.array([3]), X), [0.1, 0.2])
    with pytest.raises(ValueError, match="must broadcast"):
        features.check_shape((5, 3))
    for inner in (kr.L1([0.1, 0.2]), kr.L2([0.1, 0.2]), kr.Linf([[0.1], [0.2]])):
        with pytest.raises(ValueError, match="epsilon of shape"):
            ThreatModelWrapper(inner)
    ThreatModelWrapper(kr.L2([0.1])).check_shape((5, 3))


def test_only_threat_models_for_one_tensor_are_plain():
    assert type(get_plain("l1")) is kr.L1
    with pytest.raises(
        ValueError, match=r"hold threat models for one tensor.*Received: PerInput\("
    ):
        get_plain(kr.threat_models.PerInput({"a": "linf"}))


def test_subclasses_must_write_bind():
    with pytest.raises(NotImplementedError):
        ThreatModelWrapper("l2").bind(lambda x: x, X)
