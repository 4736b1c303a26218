"""Every module has its test file, every test file its module, and imports go one way."""

import ast
import graphlib
import pathlib

import pytest

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
    assert len(modules()) > 200
    assert sorted(map(str, set(modules()) - mirrored())) == []


def test_every_test_file_has_a_module():
    assert len(mirrored()) > 200
    assert sorted(map(str, mirrored() - set(modules()))) == []


def test_test_files_have_names_that_pytest_finds():
    helpers = {"__init__.py", "conftest.py"}
    others = [
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if not path.name.endswith("_test.py") and path.name not in helpers
    ]
    assert all(path.startswith("support/") for path in others), others


# A folder imports only folders before it, and the modules at the root of the package.
ORDER = (
    "backend",
    "initializers",
    "losses",
    "models",
    "threat_models",
    "layers",
    "attacks",
    "training",
    "evaluation",
    "certification",
    "objectives",
    "callbacks",
    "datasets",
    "export",
)


def _imports():
    """Returns a dict from every module to the set of modules that it imports when it is loaded."""
    paths = {}
    for path in (ROOT / "keras_robust").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in paths.items():
        graph[name] = set()
        for node in _loaded(ast.parse(path.read_text())):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                whole = f"{node.module}.{alias.name}"
                graph[name] |= {one for one in (whole, node.module) if one in paths} - {name}
            for alias in node.names if isinstance(node, ast.Import) else ():
                graph[name] |= {alias.name} & set(paths)
    return graph


def _loaded(node):
    """Yields the statements that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _loaded(child)


def _folder(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else None


def test_no_circle_of_imports():
    # A module that is imported from its own package may still be loading: that is no circle.
    graph = {
        name: {one for one in found if not name.startswith(one + ".")}
        for name, found in _imports().items()
    }
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph) > 200


def test_no_import_of_a_folder_further_up():
    assert {path.name for path in (ROOT / "keras_robust").iterdir() if path.is_dir()} - {
        "__pycache__"
    } == set(ORDER)
    upward = [
        f"{name} imports {one}"
        for name, found in _imports().items()
        for one in found
        if (own := _folder(name)) and (other := _folder(one))
        if ORDER.index(other) > ORDER.index(own)
    ]
    assert sum(map(len, _imports().values())) > 500
    assert upward == []


@pytest.mark.parametrize(
    "name", ["calls", "certificate", "configurable", "registry", "atomic", "sealed"]
)
def test_the_modules_at_the_root_import_no_folder(name):
    found = _imports()[f"keras_robust.{name}"]
    assert [one for one in found if _folder(one)] == []
