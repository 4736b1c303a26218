import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data(24)


def _frozen_step(model):
    """Trains without an effect, because the sample weights are 0."""
    model.train_on_batch(X[:8], Y[:8], sample_weight=np.zeros(8))


def _frozen_fit(model):
    model.fit(X[:8], Y[:8], sample_weight=np.zeros(8), verbose=0)


def _adversarial_fit(model):
    callback = linear_fit.adv_train()
    model.fit(X[:8], Y[:8], sample_weight=np.zeros(8), verbose=0, callbacks=[callback])


class Neighbour(keras.callbacks.Callback):
    """Trains the model between two batches."""

    def __init__(self, hook, train):
        super().__init__()
        setattr(self, hook, lambda batch, logs=None: train(self.model))


@tiers.parametrize("train", [_frozen_step, _frozen_fit, _adversarial_fit])
@tiers.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
@pytest.mark.parametrize("is_behind", [True, False])
def test_a_neighbour_that_trains_leaves_every_batch_adversarial(train, hook, is_behind):
    model, callback = linear_fit.make_model(), linear_fit.adv_train()
    callbacks = [callback, Neighbour(hook, train)]
    # The epochs end in between, so that what `fit` does there cannot help.
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0, "epochs": 2}
    model.fit(X, Y, callbacks=callbacks if is_behind else callbacks[::-1], **arguments)
    weights, _ = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_a_neighbour_that_trains_costs_no_further_trace():
    traces = []

    class Counting(kr.objectives.Adversarial):
        def loss(self, clean, adversarial):
            traces.append("trace")
            return super().loss(clean, adversarial)

    for callback_list in ([], [Neighbour("on_train_batch_begin", _frozen_step)]):
        callback, model = linear_fit.adv_train(objective=Counting()), linear_fit.make_model()
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback, *callback_list])
        traces.append("end")
    first = traces.index("end")
    assert len(traces) == 2 * (first + 1)


def test_there_is_one_last_callback_though_the_list_is_used_twice():
    model = linear_fit.make_model()
    callback = linear_fit.adv_train()
    callbacks = keras.callbacks.CallbackList(
        [callback], add_history=True, model=model, epochs=1, steps=3
    )
    callbacks.set_model(model)
    owners = [getattr(one, "owner", None) for one in callbacks.callbacks]
    assert owners == [None, None, callback]
    for _ in range(2):
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    weights, _ = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
