"""Nothing public is without a case."""

import inspect

import pytest

from tests.support import cases


@pytest.mark.parametrize("package", cases.PACKAGES)
def test_every_public_class_has_a_case(package):
    have = {type(instance).__name__ for instance in cases.CASES[package].values()}
    assert set(cases.public_classes(package)) - cases.NOT_A_CASE == have


def test_exceptions_are_not_stale():
    public = {name for package in cases.PACKAGES for name in cases.public_classes(package)}
    assert public >= cases.NOT_A_CASE


@pytest.mark.parametrize("package", cases.PACKAGES)
def test_every_public_class_has_a_docstring_with_an_example(package):
    classes = cases.public_classes(package)
    assert len(classes) > 2
    for name, cls in classes.items():
        if name not in cases.NOT_A_CASE:
            text = inspect.getdoc(cls)
            assert "Example:" in text and ">>> " in text, name
            assert "References:" in text or package in ("callbacks", "objectives"), name


@pytest.mark.parametrize(("package", "name", "instance"), cases.all_cases())
def test_cases_are_named_after_their_class(package, name, instance):
    assert cases.class_of(name) == type(instance).__name__
