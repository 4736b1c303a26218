"""What a refusal must say, and what it must not cost."""

import contextlib
import numbers
import re

import numpy as np
import pytest

# Numbers that stand alone: neither the 2 of "L2" nor a part of "3.16.0".
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan)(?!\w|\.\d)")


@contextlib.contextmanager
def assert_refused(message, model=None, folder=None, error=ValueError, times=1):
    """Asserts that bad input raises an error that shows it, and costs nothing.

    The numbers of `message`, a pattern, are those of the error: the pattern alone would find
    "Received: 0" in "Received: 0.5". What a model has learned, the number of its optimizer's
    steps, and the files of a folder are as before.

    Args:
        message: str, a pattern to find in the text of the error.
        model: a Keras model that is not to learn.
        folder: a path below which nothing is to be written or lost.
        error: the class of the error.
        times: int, how often the text says what was received.
    """
    learned, files = _learned(model), _files(folder)
    with pytest.raises(error, match=message) as caught:
        yield caught
    text = str(caught.value)
    assert text.count("Received: ") == times, text
    assert _numbers(_without_choices(message)) <= _numbers(text), text
    if learned is not None:
        np.testing.assert_equal(_learned(model), learned)
    assert _files(folder) == files


def assert_argument_refused(make, message, **arguments):
    """Asserts that `make` refuses an argument, and shows every number that it received."""
    with assert_refused(message) as caught:
        make(**arguments)
    received = str(caught.value).partition("Received: ")[2]
    assert _values(arguments.values()) <= _numbers(received), received


@contextlib.contextmanager
def assert_warned_once(message):
    """Asserts that a `UserWarning` is given once, and no other one."""
    with pytest.warns(UserWarning, match=message) as caught:
        yield
    # NumPy finds things outdated in what Keras does: those are other warnings.
    assert sum(issubclass(one.category, UserWarning) for one in caught) == 1


def _numbers(text):
    return {str(float(one)) for one in _NUMBER.findall(text)}


def _without_choices(pattern):
    """Returns the text of a pattern without groups of alternatives and without quantifiers."""
    pattern = re.sub(r"(?<!\\)\{[\d,]+\}", "", pattern)
    pattern = re.sub(r"(?<!\\)\([^()]*\|[^()]*\)", "", pattern)
    return "" if re.search(r"(?<!\\)\|", pattern) else re.sub(r"\\(.)", r"\1", pattern)


def _values(values):
    """Returns the numbers among values and in their lists."""
    found = set()
    for one in values:
        if isinstance(one, (list, tuple, np.ndarray)):
            found |= _values(np.ravel(one).tolist() if isinstance(one, np.ndarray) else one)
        elif isinstance(one, numbers.Real) and not isinstance(one, bool):
            found.add(str(float(one)))
    return found


def _learned(model):
    """Returns the steps and the weights of a model that has weights already."""
    if not getattr(model, "built", False):
        return None
    optimizer = getattr(model, "optimizer", None)
    steps = 0 if optimizer is None else int(np.asarray(optimizer.iterations))
    return steps, model.get_weights()


def _files(folder):
    """Returns the content of every file below a folder, `None` for folders."""
    if folder is None:
        return {}
    paths = sorted(folder.rglob("*"))
    return {str(path): None if path.is_dir() else path.read_bytes() for path in paths}
