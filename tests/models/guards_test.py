import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust.models import guards
from tests.support import linear_fit

X, Y = linear_fit.data()


def _guarded(**arguments):
    return linear_fit.make_model([kr.layers.InputGuard((0, 1), **arguments)])


_JAX_ONLY = pytest.mark.skipif(
    backend.RAISES_IN_GRAPHS, reason="a guard raises its own error in a graph of TensorFlow"
)


def test_layers_that_reject_are_found_and_refused_where_they_cannot_raise():
    model = _guarded()
    assert [layer.name for layer in guards.rejecting_layers(model)] == [model.layers[0].name]
    assert guards.rejecting_layers(_guarded(outside="clip")) == []
    if backend.RAISES_IN_GRAPHS:
        guards.refuse_guards(model, kr.Linf(0.1, bounds=None))


@_JAX_ONLY
@pytest.mark.parametrize(
    ("bounds", "is_refused"),
    [((0, 1), False), ((0.2, 0.8), False), (None, True), ((0, 2), True), ((-1, 1), True)],
)
def test_points_that_a_guard_rejects_are_refused(bounds, is_refused):
    ball = kr.Linf(0.1, bounds=bounds)
    guards.refuse_guards(_guarded(outside="clip"), ball)
    guards.refuse_guards(linear_fit.make_model(), ball)
    guards.refuse_guards(lambda x: x, ball)
    if not is_refused:
        guards.refuse_guards(_guarded(), ball)
        return
    x = np.clip(X, 0.2, 0.8)
    for refuse in (
        lambda: guards.refuse_guards(_guarded(), ball),
        lambda: kr.attacks.PGD(num_steps=1)(_guarded(), x, Y, ball),
        lambda: linear_fit.fit(_guarded(), kr.AdvTrain(ball, attack="fgsm"), x, Y),
    ):
        with pytest.raises(ValueError, match=r"rejects inputs outside .* and layer bounds"):
            refuse()


@_JAX_ONLY
def test_noise_that_a_guard_rejects_leaves_the_weights():
    model = _guarded()
    before = model.get_weights()
    callback = kr.AdvTrain(kr.L2(0.5), objective=kr.objectives.GaussianNoise(0.5), warmup=0)
    with pytest.raises(ValueError, match="rejected its inputs, and compiled.*'input_guard"):
        linear_fit.fit(model, callback)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_loss_must_be_finite_behind_a_guard_only():
    loss = keras.ops.convert_to_tensor(np.nan)
    assert guards.finite_loss(linear_fit.make_model(), loss) == []
    (required,) = guards.finite_loss(_guarded(), loss)
    assert not required.condition
