"""Noisy copies of every example, for the training of classifiers that are to be smoothed."""

import math

import keras
from keras import ops

from keras_robust import backend

_DRAW = 311


def check_copies(name, model, threat_model):
    """Raises `ValueError` where examples cannot be copied.

    Args:
        name: str, of the objective.
        model: the compiled `keras.Model`.
        threat_model: a `ThreatModel`.
    """
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) > 1:
        raise ValueError(
            f"{name} runs the model on several copies of the one input that is attacked, and has "
            "none of the others. Use the objective GaussianNoise. "
            f"Received: a model with {len(inputs)} inputs"
        )
    if not threat_model.changes_inputs:
        raise ValueError(
            f"{name} runs the model on noisy copies of its input, and this threat model changes "
            "what a layer makes of it. Use the objective GaussianNoise. "
            f"Received: {threat_model!r}"
        )


def draw_noise(batch, stddev, num_samples):
    """Returns Gaussian noise `(batch_size * num_samples, ...)`, a function of the seed of a batch.

    Args:
        batch: a `training.Batch`.
        stddev: float, or a `LearningRateSchedule` over optimizer steps.
        num_samples: int, copies of each example, which follow one another.
    """
    stddev = stddev(batch.iteration) if callable(stddev) else stddev
    batch_size, *shape = ops.shape(batch.x)
    # Not the numbers of a random start, which come from the seed itself.
    seed = backend.fold_in(batch.seed, _DRAW)
    return stddev * backend.normal((batch_size * num_samples, *shape), seed)


def repeat_rows(structure, num_samples):
    """Returns every row of the tensors in a structure several times, one after another."""

    def repeat(tensor):
        return None if tensor is None else ops.repeat(tensor, num_samples, axis=0)

    return keras.tree.map_structure(repeat, structure)


def copies(batch, noise, num_samples):
    """Returns a `training.Batch` of noisy copies of each example, with its label and weight."""
    x, y, sample_weight = repeat_rows((batch.x, batch.y, batch.sample_weight), num_samples)
    return batch._replace(x=x + noise, y=y, sample_weight=sample_weight)


def log_mean_probabilities(logits, num_samples):
    """Returns the logarithm of the mean prediction for the copies of each example.

    Args:
        logits: tensor `(batch_size * num_samples, num_classes)`.
        num_samples: int.

    Returns:
        Tensor `(batch_size, num_classes)`, logits whose softmax is the mean.
    """
    each = ops.reshape(ops.log_softmax(logits), (-1, num_samples, logits.shape[-1]))
    return ops.logsumexp(each, axis=1) - math.log(num_samples)
