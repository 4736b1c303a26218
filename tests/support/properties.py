"""Which tier of the tests holds which property of which class.

`python -m tests.support.properties` prints it.
"""

import importlib
import pathlib
import sys
import typing

import pytest

from tests.support import cases
from tests.support import tiers

CONFORMANCE = pathlib.Path(__file__).parents[1] / "conformance"


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
                marks = [*_marks(module), *_marks(function)]
                found += _properties_of(f"{path.stem}::{name}", marks)
    return found


def _marks(place):
    marks = getattr(place, "pytestmark", [])
    return [getattr(mark, "mark", mark) for mark in (marks if isinstance(marks, list) else [marks])]


def _properties_of(name, marks):
    packages = {case: package for package, case, _ in cases.all_cases()}
    for mark in marks:
        held = {}
        for value in mark.args[1] if mark.name == "parametrize" else ():
            param = tiers.as_param(mark.args[0], value)
            named = [one for one in param.values if isinstance(one, str) and one in packages]
            if named:
                is_exhaustive = any(one.name == "exhaustive" for one in (*marks, *param.marks))
                sets = held.setdefault(packages[named[0]], (set(), set()))
                sets[is_exhaustive].add(cases.class_of(named[0]))
        for package, (default, exhaustive) in held.items():
            yield Property(name, package, default, exhaustive - default)


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
