"""The two tiers of the tests.

`python -m pytest` runs the default tier. What carries the marker `exhaustive` is left out there, and
run by `.ci/exhaustive`. `python -m tests.support.tiers` prints which tier holds which property of
which class.
"""

import importlib
import pathlib
import sys
import typing

import pytest

from tests.support import cases

CONFORMANCE = pathlib.Path(__file__).parents[1] / "conformance"


def parametrize(names, values, one_for=None, **arguments):
    """Returns `pytest.mark.parametrize` with one case for each key in the default tier.

    Args:
        names: as `pytest.mark.parametrize` takes them.
        values: iterable of cases, or of `pytest.param`.
        one_for: function of the values of a case that returns its key. The first case with a key is
            in the default tier, the others are exhaustive. `None`: the first case of all.
        **arguments: others of `pytest.mark.parametrize`.
    """
    is_single = isinstance(names, str) and "," not in names
    seen, params = set(), []
    for value in values:
        if not _is_param(value):
            value = pytest.param(value) if is_single else pytest.param(*value)
        key = None if one_for is None else one_for(*value.values)
        marks = [*value.marks, pytest.mark.exhaustive] if key in seen else value.marks
        params.append(pytest.param(*value.values, marks=marks, id=value.id))
        seen.add(key)
    return pytest.mark.parametrize(names, params, **arguments)


class Property(typing.NamedTuple):
    """A test that loops over the registry of cases, and the classes that each tier holds."""

    name: str
    package: str
    default: set
    exhaustive: set

    @property
    def classes(self):
        return self.default | self.exhaustive


def properties():
    """Returns a `Property` for every conformance test that loops over cases of one package."""
    found = []
    for path in sorted(CONFORMANCE.glob("*_test.py")):
        try:
            module = importlib.import_module(f"tests.conformance.{path.stem}")
        except pytest.skip.Exception:  # The other backend.
            continue
        for name, function in vars(module).items():
            if name.startswith("test_"):
                found += _properties_of(f"{path.stem}::{name}", function)
    return found


def _properties_of(name, function):
    marks = getattr(function, "pytestmark", [])
    all_exhaustive = any(mark.name == "exhaustive" for mark in marks)
    packages = {case: package for package, case, _ in cases.all_cases()}
    for mark in marks:
        held = {}
        for value in mark.args[1] if mark.name == "parametrize" else ():
            param = value if _is_param(value) else pytest.param(*_as_tuple(value))
            named = [one for one in param.values if isinstance(one, str) and one in packages]
            if named:
                is_exhaustive = all_exhaustive or any(one.name == "exhaustive" for one in param.marks)
                tiers = held.setdefault(packages[named[0]], (set(), set()))
                tiers[is_exhaustive].add(cases.class_of(named[0]))
        yield from (
            Property(name, package, default, exhaustive - default)
            for package, (default, exhaustive) in held.items()
        )


def _as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _is_param(value):
    """Whether a value is what `pytest.param` returns."""
    return hasattr(value, "marks") and hasattr(value, "id")


def main():
    """Prints the table of properties."""
    for one in properties():
        if one.default and one.exhaustive:
            others = f"exhaustive: {', '.join(sorted(one.exhaustive))}"
        else:
            others = "default" if one.default else "exhaustive"
        count = f"{len(one.default)} of {len(one.classes)}"
        sys.stdout.write(f"{one.package:13} {count:>8}  {one.name}  [{others}]\n")


if __name__ == "__main__":
    main()
