"""Errors of Keras, told in the words of the user's mistake."""

import contextlib
import re

import keras


@contextlib.contextmanager
def error_context(problem, **values):
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


def _reason(error):
    """Returns the line of a Keras error that says what is wrong, without colours."""
    text = re.sub("\\x1b\\[[0-9;]*m", "", str(error))
    # The values of an array, which may take many lines before the sentence goes on.
    text = re.sub(r"\[\[.*?\]\]+", "[...]", text, flags=re.DOTALL)
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
