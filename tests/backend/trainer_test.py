import keras
import pytest

from keras_robust.backend.trainer import BaseTrainer
from keras_robust.backend.trainer import refuse_assigned


def test_without_replicas_sums_are_what_they_are():
    tensors = [keras.ops.ones(2), None]
    assert BaseTrainer(None, None).sum_over_replicas(tensors) is tensors


def test_what_frameworks_differ_in_is_left_to_them():
    trainer = BaseTrainer(None, None)
    for call in (lambda: trainer.backward(None, None), lambda: trainer.apply(None)):
        with pytest.raises(NotImplementedError):
            call()


def test_refuses_weights_that_a_layer_assigned_by_name():
    refuse_assigned([])
    variable = keras.Variable([1.0], name="own")
    with pytest.raises(ValueError, match="SpectralNormalization.*Received: a model that.* own"):
        refuse_assigned([variable])
