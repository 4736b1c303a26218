"""The command line programs as a user starts them."""

import runpy
import sys

from keras_robust import datasets
from tests.support import backends
from tests.support import fork_server


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
    """Runs `python -m apps.NAME` as a user does, and returns how it ended."""
    return fork_server.call(_main, f"apps.{name}", arguments)


def run_all(name, commands):
    """Runs a program once for each list of arguments, and returns how each ended."""
    return [run(name, *arguments) for arguments in commands]


def _main(module, arguments):
    if not backends.IS_JAX:  # There, programs run for longer than they compile.
        backends.optimize_less()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
