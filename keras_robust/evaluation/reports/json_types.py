"""Types of JSON values: functions `(value, path)` that raise ValueError for other values."""

import json
import math
import pathlib
import reprlib
import sys

from keras_robust.evaluation.reports.characters import HIDDEN
from keras_robust.evaluation.reports.characters import one_line

# Larger numbers do not fit the integers and floats of other programs.
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_NUMBER = sys.float_info.max
# The deepest nesting that is read; files written by this package need less than ten levels.
_DEPTH = 20


def read_json(path):
    """Returns the content of a JSON file; raises ValueError if it is invalid or repeats a name."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_unique)
    # Lists nested too deep for the parser raise RecursionError.
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"Expected a report, a JSON file: {error}. Received: path={str(path)!r}"
        ) from error


def _unique(pairs):
    # Parsers disagree on which of several equal names counts, so none of them is accepted.
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name is repeated in {reprlib.repr([name for name, _ in pairs])}")
    return found


def refuse(path, expected, value):
    """Raises a `ValueError` with what was expected at a path, and the value there."""
    # The value may be huge, so `reprlib` shortens it.
    raise ValueError(f"Expected {path} to be {expected}. Received: {path}={reprlib.repr(value)}")


def number(low=-math.inf, high=math.inf, types=(int, float), words="a number"):
    """Returns the check that a value is a finite number in a range that float64 can hold."""
    limits = [f"at least {low}"] * (low > -math.inf) + [f"at most {high}"] * (high < math.inf)
    expected = ", ".join([words, *limits])

    def check(value, path):
        # In Python, bool is a subclass of int.
        right = isinstance(value, types) and not isinstance(value, bool)
        # Written as `not` so that NaN, for which every comparison is false, fails.
        if not (right and low <= value <= high and abs(value) <= _LARGEST_NUMBER):
            refuse(path, expected, value)

    return check


def integer(low=-_LARGEST_INTEGER, high=_LARGEST_INTEGER):
    """Returns the check that a value is an integer in a range that int64 can hold."""
    expected = "an integer" + (f", at least {low}" if low > -_LARGEST_INTEGER else "")
    expected += f", at most {high}" if high < _LARGEST_INTEGER else ""

    def check(value, path):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(path, expected, value)

    return check


def text(value, path):
    """Raises ValueError unless a value is text without hidden characters."""
    if not isinstance(value, str):
        refuse(path, "text", value)
    if HIDDEN.search(value):
        refuse(path, "text without control characters", value)


def optional(kind):
    """Returns the check that a value is `None` or of a type."""

    def check(value, path):
        if value is not None:
            kind(value, path)

    return check


def list_of(kind, length=None):
    """Returns the check that a value is a list of a type, with a length if one is given."""
    expected = "a list" if length is None else f"a list of {length}"

    def check(value, path):
        if not isinstance(value, list) or length not in (None, len(value)):
            refuse(path, expected, value)
        for index, item in enumerate(value):
            kind(item, f"{path}[{index}]")

    return check


def dict_of(kind):
    """Returns the check that a value is an object whose values are of a type."""

    def check(value, path):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            refuse(path, "an object with text as keys", value)
        for key, item in value.items():
            # The key becomes a part of messages, so it must be visible and short.
            text(key, f"a name in {path}")
            kind(item, f"{path}.{one_line(key)[:50]}")

    return check


def record(**types):
    """Returns the check that a value is an object with exactly these fields."""

    def check(value, path):
        if not isinstance(value, dict):
            refuse(path, f"an object with the fields {list(types)}", value)
        missing = [name for name in types if name not in value]
        unknown = [name for name in value if name not in types]
        if missing or unknown:
            raise ValueError(
                f"Expected the fields of {path} to be {list(types)}. "
                f"Received: missing {missing}, unknown {reprlib.repr(unknown)}"
            )
        for name, kind in types.items():
            kind(value[name], f"{path}.{name}")

    return check


def json_value(value, path, depth=0):
    """Raises ValueError unless JSON can hold a value, with no hidden characters or deep nesting."""
    # Without a limit, a deeply nested file could exhaust the stack.
    if depth > _DEPTH:
        refuse(path, f"nested at most {_DEPTH} deep", value)

    def inner(item, where):
        json_value(item, where, depth + 1)

    if isinstance(value, dict):
        dict_of(inner)(value, path)
    elif isinstance(value, list):
        list_of(inner)(value, path)
    elif isinstance(value, float):
        number()(value, path)
    elif isinstance(value, int) and not isinstance(value, bool):
        integer()(value, path)
    elif isinstance(value, str):
        text(value, path)
    elif value is not None and not isinstance(value, bool):
        refuse(path, "what JSON can hold", value)


def array_of(kind, depth=_DEPTH):
    """Returns the check that a value is of a type, or a nested list of that type."""

    def check(value, path):
        if not isinstance(value, list):
            return kind(value, path)
        if not value or not depth:
            refuse(path, f"a list of at least one number, nested at most {_DEPTH} deep", value)
        list_of(array_of(kind, depth - 1))(value, path)
        # The recursion has checked that each item is rectangular. The list is rectangular if all
        # items also have one shape.
        if len({_shape(item) for item in value}) > 1:
            refuse(path, "a list of equal shapes", value)

    return check


def _shape(value):
    """Returns the shape of a list whose items all have the shape of the first."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0]
    return tuple(shape)
