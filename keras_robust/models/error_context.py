"""Errors of Keras, with an explanation in the terms of this package."""

import contextlib
import re

import keras


@contextlib.contextmanager
def error_context(problem, **values):
    """Raises errors of Keras again, with an explanation and the shapes of the inputs.

    Args:
        problem: str, a sentence without its full stop.
        values: structures of tensors by name, whose shapes are shown.
    """
    try:
        yield
    except (IndexError, KeyError, TypeError, ValueError) as error:
        # Errors of this package need no further explanation.
        if "Received: " in str(error):
            raise
        given = ", ".join(f"{name} {_shapes(value)}" for name, value in values.items())
        raise ValueError(f"{problem}: {_reason(error)} Received: {given}") from error


def _reason(error):
    """Returns the line of a Keras error that names the problem, without colors."""
    text = re.sub("\\x1b\\[[0-9;]*m", "", str(error))
    # Remove the values of arrays, which may take many lines in the middle of a sentence.
    text = re.sub(r"\[\[.*?\]\]+", "[...]", text, flags=re.DOTALL)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith("Error encountered:") and len(lines) > 1:
        # The next line is the error that Keras met when it inferred the shapes of a layer.
        reason = lines[1]
    return reason if reason.endswith(".") else f"{reason}."


def _shapes(value):
    return keras.tree.map_structure(lambda leaf: tuple(getattr(leaf, "shape", ())), value)
