"""What is shown while attacks run: which one, on how many examples, and whether at all."""

import sys

import keras
import numpy as np

_CHANNELS = (1, 3, 4)


def is_shown(verbose):
    """Returns whether to show progress.

    Args:
        verbose: bool, or `"auto"`, which shows it in terminals and notebooks only.

    Raises:
        ValueError: for other strings.
    """
    if not isinstance(verbose, str):
        return bool(verbose)
    if verbose != "auto":
        raise ValueError(
            f"Argument `verbose` must be 'auto', True or False. Received: verbose={verbose!r}"
        )
    # The output of a notebook is no terminal, but a stream of its kernel.
    is_notebook = type(sys.stdout).__module__.partition(".")[0] == "ipykernel"
    return is_notebook or (sys.stdout is not None and sys.stdout.isatty())


def headline(place, what, x, num_examples, *, any_radius=False):
    """Returns a line such as `[2/5] TargetedAPGD, 100 images x 9 targets`.

    Args:
        place: pair of int, the number of an attack or a certificate, from 1, and how many there
            are.
        what: an `Attack` or a `Certificate`.
        x: array or structure of arrays, the inputs, which may be images.
        num_examples: int, the number of examples that it runs on.
        any_radius: bool, whether it is a minimum-norm attack that runs without a radius.
    """
    number, total = place
    name = type(what).__name__ + (" (any radius)" if any_radius else "")
    text = f"[{number}/{total}] {name}, {num_examples} {_noun(x)}{'s' * (num_examples != 1)}"
    num_searches = getattr(what, "num_restarts", 1)
    if num_searches > 1:
        text += f" x {num_searches} {'targets' if hasattr(what, 'num_targets') else 'restarts'}"
    return text


def _noun(x):
    is_image = not keras.tree.is_nested(x) and np.ndim(x) == 4 and np.shape(x)[-1] in _CHANNELS
    return "image" if is_image else "example"
