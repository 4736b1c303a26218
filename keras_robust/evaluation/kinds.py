"""Kinds of values in JSON: each is a function `(value, path)` that raises where it is another."""

import json
import math
import pathlib
import reprlib


def read_json(path):
    """Returns what a JSON file holds, or says that it is none."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected a report, a JSON file: {error}. Received: path={str(path)!r}"
        ) from error


def refuse(path, expected, value):
    """Raises a `ValueError` that says what was expected in a place, and what is there."""
    raise ValueError(f"Expected {path} to be {expected}. Received: {path}={reprlib.repr(value)}")


def number(low=-math.inf, high=math.inf, kinds=(int, float), words="a number"):
    """Returns the check that a value is a finite number in a range."""
    limits = [f"at least {low}"] * (low > -math.inf) + [f"at most {high}"] * (high < math.inf)
    expected = ", ".join([words, *limits])

    def check(value, path):
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not (right and low <= value <= high and abs(value) < math.inf):
            refuse(path, expected, value)

    return check


def integer(low=-math.inf):
    """Returns the check that a value is an integer in a range."""
    return number(low, kinds=(int,), words="an integer")


def text(value, path):
    """Checks that a value is text."""
    if not isinstance(value, str):
        refuse(path, "text", value)


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
            kind(item, f"{path}.{key}")

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
                f"Received: missing {missing}, unknown {unknown}"
            )
        for name, kind in kinds.items():
            kind(value[name], f"{path}.{name}")

    return check


def json_value(value, path):
    """Checks that a value is what JSON can hold."""
    if isinstance(value, dict):
        dict_of(json_value)(value, path)
    elif isinstance(value, list):
        list_of(json_value)(value, path)
    elif isinstance(value, float):
        number()(value, path)
    elif value is not None and not isinstance(value, (bool, int, str)):
        refuse(path, "what JSON can hold", value)
