"""The command line programs as a user starts them, once or many times in one process."""

import json
import os
import pathlib
import subprocess
import sys
import typing

from keras_robust import datasets

ROOT = pathlib.Path(__file__).parents[2]

# What `conftest` sets, for tests alone: quiet frameworks, and code that runs slowly.
_OF_TESTS = ("TF_CPP_MIN_LOG_LEVEL", "JAX_DISABLE_MOST_OPTIMIZATIONS")

# The process of the programs: it starts TensorFlow once, which takes longer than all the rest.
_RUNNER = """
import contextlib, importlib, io, json, sys

from absl import app
from absl import flags

app.define_help_flags()
program = importlib.import_module(f"apps.{sys.argv[1]}")
results, others = [], set(flags.FLAGS)
for arguments in json.load(sys.stdin):
    sys.argv = [sys.argv[0], *arguments]
    for name in set(flags.FLAGS) - others:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            program.run_main()
        except SystemExit as exit:
            code = exit.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


class Done(typing.NamedTuple):
    """How a program ended."""

    code: int
    stdout: str
    stderr: str


def assert_one_line(result, message):
    """Asserts that a program failed with one line, which has `message` in it, and no traceback."""
    assert result.code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stdout + result.stderr


def few_digits():
    """The first digits only, for programs that are to train and attack in a second."""
    digits = datasets.load("digits")
    sizes = {"train": 200, "validation": 40, "test": 40}
    parts = {name: tuple(a[:n] for a in getattr(digits, name)) for name, n in sizes.items()}
    return digits._replace(**parts)


def run(name, *arguments):
    """Runs `python -m apps.NAME` as a user does, and returns `Done`."""
    return _run([sys.executable, "-m", f"apps.{name}", *arguments])


def run_all(name, commands):
    """Runs a program once for each list of arguments, all in one process; a list of `Done`."""
    done = _run([sys.executable, "-c", _RUNNER, name], input=json.dumps(commands))
    if done.code != 0 or done.stderr:
        raise RuntimeError(f"The programs ended with {done.code}: {done.stderr}")
    return [Done(*result) for result in json.loads(done.stdout)]


def _run(command, **arguments):
    variables = {name: os.environ[name] for name in os.environ if name not in _OF_TESTS}
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, **arguments
    )
    return Done(done.returncode, done.stdout, done.stderr)
