"""Every module has its test file and every test file its module."""

import pathlib

TESTS = pathlib.Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
FREE = ("conformance", "examples", "support")
NOT_TESTED_ALONE = ("__init__.py", "version.py")


def modules():
    """The modules and apps as the paths that their tests must have."""
    found = {}
    for path in sorted((ROOT / "keras_robust").rglob("*.py")):
        if path.name not in NOT_TESTED_ALONE:
            found[path.relative_to(ROOT / "keras_robust")] = path
    for path in sorted((ROOT / "apps").rglob("*.py")):
        if path.name not in NOT_TESTED_ALONE:
            found[path.relative_to(ROOT)] = path
    return found


def mirrored():
    """The paths that the test files mirror."""
    files = (path.relative_to(TESTS) for path in sorted(TESTS.rglob("*_test.py")))
    kept = [path for path in files if path.parts[0] not in FREE]
    return {path.with_name(path.name.replace("_test.py", ".py")) for path in kept}


def test_every_module_has_a_test_file():
    assert sorted(map(str, set(modules()) - mirrored())) == []


def test_every_test_file_has_a_module():
    assert sorted(map(str, mirrored() - set(modules()))) == []


def test_test_files_have_names_that_pytest_finds():
    helpers = {"__init__.py", "conftest.py"}
    others = [
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if not path.name.endswith("_test.py") and path.name not in helpers
    ]
    assert all(path.startswith("support/") for path in others), others
