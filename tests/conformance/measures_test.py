"""The size and shape of the code, measured. `pytest -rP` on this file prints the measures."""

import ast
import io
import math
import pathlib
import re
import tokenize

import pytest
from radon.visitors import ComplexityVisitor

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "keras_robust").rglob("*.py"), *(ROOT / "apps").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*_test.py"))
# `evaluate` is one public function, with an argument for each thing that a user may choose.
# The goals of the tests below.
SHARE_WITH_NUMBERS, COMMENTS = 0.85, 0.05
MANY_PARAMETERS = {"evaluate"}
# What a test asserts a number with, beside a literal in an `assert`. Each of them compares numbers.
_NUMERIC = re.compile(
    r"allclose|array_equal|array_less|approx|assert_same|assert_result|array_almost_equal"
    # Of `support/`: the numbers of an error, steps of an optimizer, warnings, the exit code.
    r"|refusals\.assert_(refused|argument_refused|warned_once)"
    r"|assert_one_line|assert_leaves_layers_still"
    # Of one file each.
    r"|\b(_passed|_failed|contained|_refused|_assert_refused|_assert_plain|_assert_trained)$"
    r"|\b(_assert_close|_assert_traces|_assert_sound|_assert_one_line|_try|_use)$"
)


def _trees(files=FILES):
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def _functions():
    """Yields a name and a node for every function and method."""
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}: {node.name}", node


def _complexities():
    """Returns the cyclomatic complexity by name, of methods too, as radon counts it."""
    found = {}
    for path in FILES:
        for block in ComplexityVisitor.from_code(path.read_text(encoding="utf-8")).blocks:
            for one in [block, *getattr(block, "methods", [])]:
                found[f"{path.relative_to(ROOT)}: {one.fullname}"] = one.complexity
    return found


def _num_parameters(node):
    arguments = node.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in names)


def _num_lines(node):
    """Returns the lines of a function below its signature and docstring."""
    has_docstring = ast.get_docstring(node) is not None
    body = node.body[1:] if has_docstring else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def _p90(values):
    values = sorted(values)
    return values[math.floor(0.9 * (len(values) - 1))]


def _report(name, values, limit, allowed=()):
    """Prints a measure; returns what is above its limit."""
    print(f"{name}: 90% at most {_p90(values.values())}, largest {max(values.values())}")
    return {key: value for key, value in values.items() if value > limit and key not in allowed}


def test_no_function_is_complex():
    assert _report("complexity", _complexities(), 10) == {}


def test_functions_take_few_parameters():
    counts = {name: _num_parameters(node) for name, node in _functions()}
    above = _report("parameters", counts, 8)
    assert {name.rpartition(" ")[2] for name in above} <= MANY_PARAMETERS
    assert _p90(counts.values()) <= 4


def test_functions_are_short():
    lines = {name: _num_lines(node) for name, node in _functions()}
    assert _report("lines of a function", lines, 40) == {}
    assert _p90(lines.values()) <= 15


def test_modules_are_short():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert _report("lines of a module", lines, 400) == {}
    share = sum(count <= 250 for count in lines.values()) / len(lines)
    print(f"modules of at most 250 lines: {share:.1%}")
    assert share >= 0.95


def _shows_the_value(call):
    """Whether an error is made with text from a value, or by a function that adds it.

    A text may also name the one value that leads to it, "Received: y=None".
    """
    is_made_elsewhere = not ast.unparse(call.func).endswith(("Error", "Interrupt"))
    nodes = [node for one in [*call.args, *call.keywords] for node in ast.walk(one)]
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    names_a_value = any(re.search(r"Received: \S", str(text)) for text in texts)
    kinds = (ast.FormattedValue, ast.Call, ast.Name)
    return is_made_elsewhere or names_a_value or any(isinstance(node, kinds) for node in nodes)


def test_errors_show_what_was_received():
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}": _shows_the_value(node.exc)
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        if ast.unparse(node.exc.func) != "NotImplementedError"
    }
    share = sum(found.values()) / len(found)
    print(f"errors that show a value: {share:.1%} of {len(found)}")
    assert share >= 0.98, [place for place, shows in found.items() if not shows]


def _is_number(node):
    """Whether an expression is a number, or a list with a number."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return any(map(_is_number, node.elts))
    if isinstance(node, (ast.UnaryOp, ast.BinOp)):
        return _is_number(node.operand if isinstance(node, ast.UnaryOp) else node.left)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _tables(test):
    """Yields the names and the rows of the tables that a test is run for, or loops over."""
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("parametrize"):
            names = ast.literal_eval(mark.args[0])
            yield re.split(r",\s*", names) if isinstance(names, str) else names, mark.args[1]
    for loop in ast.walk(test):
        if isinstance(loop, ast.For):
            names = getattr(loop.target, "elts", [loop.target])
            yield [ast.unparse(name) for name in names], loop.iter


def _names_of_numbers(test):
    """Returns the names under which some row of a table of the test has a number."""
    found = set()
    for names, rows in _tables(test):
        for row in getattr(rows, "elts", []):
            values = [row] if len(names) == 1 else getattr(row, "elts", [])
            found |= {name for name, one in zip(names, values, strict=False) if _is_number(one)}
    return found


def _compares(assertion, names):
    """Whether an assertion compares something with one of the names, or with a list of them."""
    for node in ast.walk(assertion):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.Lt, ast.LtE)):
            sides = [node.left, *node.comparators]
            parts = [part for side in sides for part in getattr(side, "elts", [side])]
            if any(isinstance(part, ast.Name) and part.id in names for part in parts):
                return True
    return False


def _asserts_a_number(test):
    names = _names_of_numbers(test)
    for one in ast.walk(test):
        if isinstance(one, ast.Assert) and (
            any(type(getattr(part, "value", None)) in (int, float) for part in ast.walk(one))
            or _compares(one, names)
        ):
            return True
        if isinstance(one, ast.Call) and _NUMERIC.search(ast.unparse(one.func)):
            return True
    return False


def test_most_tests_assert_a_number():
    tests = [
        node
        for _, tree in _trees(TESTS)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    share = sum(map(_asserts_a_number, tests)) / len(tests)
    print(f"tests that assert a number: {share:.1%} of {len(tests)}")
    # The goal is 85%. The others assert texts, names, classes of objects, and what is the same
    # object; a number would say nothing more there.
    assert share >= SHARE_WITH_NUMBERS


def _num_code_lines(text):
    """Returns the lines that are neither empty nor part of a docstring or a comment."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        is_documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if is_documented and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docstrings
        for number, line in lines
    )


def test_comments_say_why():
    comments = code = 0
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(
            token.type == tokenize.COMMENT and "noqa" not in token.string for token in tokens
        )
        code += _num_code_lines(text)
    print(f"comments per line of code: {comments / code:.3f}")
    # The goal is 0.05.
    assert comments / code >= COMMENTS


@pytest.mark.parametrize(
    ("call", "shows"),
    [
        ("ValueError('x')", False),
        ("ValueError('x. Received: ')", False),
        ("ValueError('x. Received: y=None')", True),
        ("ValueError(f'{x}')", True),
        ("ValueError(_TEXT.format(3))", True),
        ("registry.unknown(x)", True),
    ],
)
def test_the_measure_of_errors_tells_texts_from_values(call, shows):
    assert _shows_the_value(ast.parse(call).body[0].value) == shows


@pytest.mark.parametrize(
    ("test", "does"),
    [
        ("def test():\n assert f() == 2", True),
        ("def test():\n assert f() is True", False),
        ("def test():\n assert f() == 'text'", False),
        ("def test():\n np.testing.assert_allclose(f(), g())", True),
        ("@pytest.mark.parametrize('x, y', [(1, 'b')])\ndef test(x, y):\n assert f(y) == x", True),
        ("@pytest.mark.parametrize('x, y', [(1, 'b')])\ndef test(x, y):\n assert f(x) == y", False),
        ("def test():\n for x, y in [(a, -1)]:\n  assert f(x) == (y, b)", True),
        ("def test():\n for x in [True, None]:\n  assert f() == x", False),
    ],
)
def test_the_measure_of_tests_tells_numbers_from_texts(test, does):
    assert _asserts_a_number(ast.parse(test).body[0]) == does
