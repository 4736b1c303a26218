"""Logits and probabilities of a model as a function for export."""

import contextlib
import itertools

import tensorflow as tf
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust.layers import RandomizedSmoothing


def smoothings(model):
    """Returns a list of the `RandomizedSmoothing` layers in a model."""
    return [layer for layer in backend.layers_of(model) if isinstance(layer, RandomizedSmoothing)]


def is_random(model):
    """Returns whether the model draws fresh noise at every call."""
    return any(layer.seed is None for layer in smoothings(model))


class PredictionFunction:
    """A model as a function from its inputs to pairs of float32 logits and probabilities.

    Probabilities are the softmax of the logits. For a `RandomizedSmoothing` they are its shares of
    votes, and the logits are the logarithms of these shares with a lower bound. The noise comes
    from a seed, int32 `(2,)`. By default the system draws the seed, so that two processes that load
    the same graph draw different noise.

    Args:
        model: classifier.
        pack: as in `models.Classifier`.
    """

    def __init__(self, model, pack=None):
        models.refuse_preprocessor(model)
        self._classifier = models.Classifier(model, pack=pack)
        self._smoothings = smoothings(model)

    def __call__(self, x, seed=None):
        draws = itertools.count()

        def draw():
            given = seed_of_the_system() if seed is None else seed
            return backend.fold_in(given, next(draws))

        with contextlib.ExitStack() as stack:
            for layer in self._smoothings:
                stack.enter_context(layer.seeds_from(draw))
            outputs = self._classifier(x)
        logits = self._classifier.to_logits(outputs)
        # The logits of a smoothed model have a lower bound, so their softmax is not the votes.
        if self._smoothings and backend.keras_logits(outputs) is not None:
            return logits, ops.cast(outputs, "float32")
        return logits, ops.softmax(logits)


def seed_of_the_system():
    """Returns a seed from TensorFlow, int32 `(2,)`, that differs at every evaluation."""
    # A number that Python draws would be a constant of the graph.
    return tf.raw_ops.NonDeterministicInts(shape=[2], dtype=tf.int32)
