"""Kinds of values in JSON: each is a function `(value, path)` that raises where it is another."""

import json
import math
import pathlib
import reprlib
import sys

from keras_robust.evaluation.reports.characters import HIDDEN
from keras_robust.evaluation.reports.characters import one_line

# Of what a table, a page and a server can hold as a number of their own.
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_NUMBER = sys.float_info.max
# Lists and objects within each other; those that are written have a handful.
_DEPTH = 20


def read_json(path):
    """Returns what a JSON file holds, or says that it is none; a name may not come twice."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_unique)
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"Expected a report, a JSON file: {error}. Received: path={str(path)!r}"
        ) from error


def _unique(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name comes twice among {reprlib.repr([name for name, _ in pairs])}")
    return found


def refuse(path, expected, value):
    """Raises a `ValueError` that says what was expected in a place, and what is there."""
    raise ValueError(f"Expected {path} to be {expected}. Received: {path}={reprlib.repr(value)}")


def number(low=-math.inf, high=math.inf, kinds=(int, float), words="a number"):
    """Returns the check that a value is a finite number in a range, at most that of a float."""
    limits = [f"at least {low}"] * (low > -math.inf) + [f"at most {high}"] * (high < math.inf)
    expected = ", ".join([words, *limits])

    def check(value, path):
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not (right and low <= value <= high and abs(value) <= _LARGEST_NUMBER):
            refuse(path, expected, value)

    return check


def integer(low=-_LARGEST_INTEGER, high=_LARGEST_INTEGER):
    """Returns the check that a value is an integer in a range, at most that of 64 bits."""
    expected = "an integer" + (f", at least {low}" if low > -_LARGEST_INTEGER else "")
    expected += f", at most {high}" if high < _LARGEST_INTEGER else ""

    def check(value, path):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(path, expected, value)

    return check


def text(value, path):
    """Checks that a value is text without hidden characters."""
    if not isinstance(value, str):
        refuse(path, "text", value)
    if HIDDEN.search(value):
        refuse(path, "text without control characters", value)


def optional(kind):
    """Returns the check that a value is `None` or of a kind."""

    def check(value, path):
        if value is not None:
            kind(value, path)

    return check


def list_of(kind, length=None):
    """Returns the check that a value is a list of a kind, of a length if that is given."""
    expected = "a list" if length is None else f"a list of {length}"

    def check(value, path):
        if not isinstance(value, list) or length not in (None, len(value)):
            refuse(path, expected, value)
        for index, item in enumerate(value):
            kind(item, f"{path}[{index}]")

    return check


def dict_of(kind):
    """Returns the check that a value is an object whose values are of a kind."""

    def check(value, path):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            refuse(path, "an object with text as keys", value)
        for key, item in value.items():
            text(key, f"a name in {path}")
            kind(item, f"{path}.{one_line(key)[:50]}")

    return check


def record(**kinds):
    """Returns the check that a value is an object with exactly these fields."""

    def check(value, path):
        if not isinstance(value, dict):
            refuse(path, f"an object with the fields {list(kinds)}", value)
        missing = [name for name in kinds if name not in value]
        unknown = [name for name in value if name not in kinds]
        if missing or unknown:
            raise ValueError(
                f"Expected the fields of {path} to be {list(kinds)}. "
                f"Received: missing {missing}, unknown {reprlib.repr(unknown)}"
            )
        for name, kind in kinds.items():
            kind(value[name], f"{path}.{name}")

    return check


def json_value(value, path, depth=0):
    """Checks that a value is what JSON can hold, without hidden characters and not nested deep."""
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
    """Returns the check that a value is of a kind, or a list of at least one of such."""

    def check(value, path):
        if not isinstance(value, list):
            return kind(value, path)
        if not value or not depth:
            refuse(path, f"a list of at least one number, nested at most {_DEPTH} deep", value)
        list_of(array_of(kind, depth - 1))(value, path)
        if len({_shape(item) for item in value}) > 1:
            refuse(path, "a list of equal shapes", value)

    return check


def _shape(value):
    """The shape of a list, each of whose items is known to have the shape of the first."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0]
    return tuple(shape)
