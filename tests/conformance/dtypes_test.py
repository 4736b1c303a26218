"""Nothing takes its dtype from `keras.config.floatx()`, which a user may set to float64."""

import ast
import pathlib

import pytest

from tests.support import double
from tests.support import fork_server

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_robust"

# From which positional argument on the dtype is given.
MAKERS = {
    "arange": 4,
    "eye": 3,
    "full": 2,
    "linspace": 6,
    "one_hot": 3,
    "ones": 1,
    "zeros": 1,
}
METRICS = ("Mean", "Sum", "Loss")


def is_number(node):
    """Whether an expression is of numbers in Python alone, as far as it tells."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "float"
    if isinstance(node, ast.Attribute):
        return node.attr.startswith("num_") or node.attr.endswith(("_per_step", "_size"))
    return isinstance(node, ast.Name) and node.id.strip("_").isupper()


def has_no_dtype(call):
    """Whether a call of `ops.NAME` makes a tensor whose dtype Keras chooses."""
    name = call.func.attr
    if any(keyword.arg == "dtype" for keyword in call.keywords):
        return False
    if name in MAKERS:
        return len(call.args) <= MAKERS[name]
    if name == "where" and len(call.args) == 3:
        return is_number(call.args[1]) and is_number(call.args[2])
    if name in ("log", "sqrt", "exp", "convert_to_tensor") and len(call.args) == 1:
        given = call.args[0]
        while isinstance(given, ast.List):
            given = given.elts[0]
        return is_number(given)
    return False


def makers(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner in ("ops", "keras.ops") and has_no_dtype(node):
                yield f"{path.name}:{node.lineno} {ast.unparse(node)}"
            if owner == "keras.metrics" and node.func.attr in METRICS:
                if not any(keyword.arg == "dtype" for keyword in node.keywords):
                    yield f"{path.name}:{node.lineno} {ast.unparse(node)}"


def test_every_constant_has_a_dtype():
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 200
    assert [one for path in paths for one in makers(path)] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ops.zeros(shape)", True),
        ("ops.zeros(shape, 'float32')", False),
        ("ops.full(shape, 1.0)", True),
        ("ops.where(x, 1.0, -_LARGE)", True),
        ("ops.where(x, y, 0.0)", False),
        ("ops.convert_to_tensor([[0.5]])", True),
        ("ops.convert_to_tensor(0.5)", True),
    ],
)
def test_what_has_a_dtype(source, expected):
    assert has_no_dtype(ast.parse(source).body[0].value) is expected


@pytest.mark.exhaustive
@pytest.mark.parametrize("package", ["certificates", "objectives", "attacks"])
def test_everything_runs_under_float64(package):
    done = fork_server.call(double.run, package, timeout=1800)
    assert done.code == 0, done.stdout
