"""Errors of Keras, told in the words of the user's mistake."""

import contextlib
import re

import keras

from keras_robust.backend.errors import NoGradientError


@contextlib.contextmanager
def explained(problem, **values):
    """Says of what Keras raises inside what it means here, and what was given.

    Args:
        problem: str, a sentence without its full stop.
        values: structures of tensors by name, of which the shapes are shown.
    """
    try:
        yield
    except (IndexError, KeyError, TypeError, ValueError) as error:
        if "Received: " in str(error):
            raise
        given = ", ".join(f"{name} {_shapes(value)}" for name, value in values.items())
        raise ValueError(f"{problem}: {_reason(error)} Received: {given}") from error


@contextlib.contextmanager
def told_integers(model):
    """Says of a missing gradient that the model takes integers, where it does."""
    try:
        yield
    except NoGradientError as error:
        kinds = {tensor.name: tensor.dtype for tensor in _inputs_of(model)}
        integers = {name: kind for name, kind in kinds.items() if "int" in kind}
        if not integers:
            raise
        raise ValueError(
            "The model takes whole numbers: Keras casts every input to integers, so that it has no "
            'gradient there. For images make it with keras.Input(..., dtype="float32"); weights '
            "can be copied by get_weights and set_weights. For tokens attack an embedding, with "
            "AtLayer. Received: a model with inputs of dtype "
            f"{', '.join(f'{name!r}: {kind}' for name, kind in integers.items())}"
        ) from error


def _inputs_of(model):
    try:
        return keras.tree.flatten(model.inputs) if isinstance(model, keras.Model) else []
    except (AttributeError, ValueError):
        return []


def _reason(error):
    """Returns the line of a Keras error that says what is wrong, without colours."""
    text = re.sub("\\x1b\\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith("Error encountered:") and len(lines) > 1:
        # What Keras met while it asked a layer for its shapes.
        reason = lines[1]
    return reason if reason.endswith(".") else f"{reason}."


def _shapes(value):
    return keras.tree.map_structure(lambda leaf: tuple(getattr(leaf, "shape", ())), value)
