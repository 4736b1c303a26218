"""Noisy copies of examples, for the training of smoothed classifiers."""

import math

import keras
from keras import ops

from keras_robust import backend

# Folded into the seed of the batch, because the attack draws from that seed itself.
_DRAW = 311


def check_copies(name, model, threat_model):
    """Raises `ValueError` if the examples cannot be copied.

    Args:
        name: str, the name of the objective.
        model: the compiled `keras.Model`.
        threat_model: a `ThreatModel`.
    """
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) > 1:
        raise ValueError(
            f"{name} runs the model on copies of the attacked input, and cannot copy the other "
            "inputs. Use a model with one input, or the objective GaussianNoise. "
            f"Received: a model with {len(inputs)} inputs"
        )
    if not threat_model.exposes_inputs:
        raise ValueError(
            f"{name} runs the model on noisy copies of its input, but this threat model changes "
            "the output of a layer, or parameters of a transformation. Use the objective "
            f"GaussianNoise. Received: {threat_model!r}"
        )


def draw_noise(batch, stddev, num_samples):
    """Returns Gaussian noise `(batch_size * num_samples, ...)` from the seed of a batch.

    Args:
        batch: a `training.Batch`.
        stddev: float, or a `LearningRateSchedule` over optimizer steps.
        num_samples: int, copies of each example. The copies of an example are adjacent rows.
    """
    stddev = stddev(batch.iteration) if callable(stddev) else stddev
    batch_size, *shape = ops.shape(batch.x)
    seed = backend.fold_in(batch.seed, _DRAW)
    return stddev * backend.normal((batch_size * num_samples, *shape), seed)


def repeat_rows(structure, num_samples):
    """Returns a structure of tensors with `num_samples` adjacent copies of every row."""

    def repeat(tensor):
        return None if tensor is None else ops.repeat(tensor, num_samples, axis=0)

    return keras.tree.map_structure(repeat, structure)


def copies(batch, noise, num_samples):
    """Returns a `training.Batch` of noisy copies, each with the label and weight of its example."""
    x, y, sample_weight = repeat_rows((batch.x, batch.y, batch.sample_weight), num_samples)
    return batch._replace(x=x + noise, y=y, sample_weight=sample_weight)


def log_mean_probabilities(logits, num_samples):
    """Returns the logarithm of the mean probabilities over the copies of each example.

    Args:
        logits: tensor `(batch_size * num_samples, num_classes)`.
        num_samples: int.

    Returns:
        Tensor `(batch_size, num_classes)`: logits whose softmax is the mean.
    """
    each = ops.reshape(ops.log_softmax(logits), (-1, num_samples, logits.shape[-1]))
    return ops.logsumexp(each, axis=1) - math.log(num_samples)
