"""Processes that start at once: forks of one that has imported Keras and the frameworks.

Each test process has one such server, with the variables that the process had at its first call. It
has run nothing yet, so that a fork is like a new process. What it imports is said in `_IMPORTED`;
`apps`, the first, keeps TensorFlow as quiet as it is in programs.
"""

import functools
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import signal
import sys
import tempfile
import typing
from unittest import mock

ROOT = pathlib.Path(__file__).parents[2]

_IMPORTED = ["apps", "keras_robust", "sklearn.datasets", "tensorflow_datasets"]


class Done(typing.NamedTuple):
    """How a process ended: its exit code, or minus the signal, and what it wrote."""

    code: int
    stdout: str
    stderr: str


def call(function, *arguments, timeout=300):
    """Calls a function of a module in a process of its own, in the project's folder.

    The process exits as a program does: with 0, with the code of `SystemExit`, or with 1 and a
    traceback on stderr.

    Raises:
        TimeoutError: if it takes longer than `timeout` seconds. It is killed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = [pathlib.Path(folder, name) for name in ("1", "2")]
        for path in written:
            path.touch()
        process = _context().Process(target=_run, args=(folder, function, arguments))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"{function} {arguments} took longer than {timeout} seconds.")
        return Done(process.exitcode, *(path.read_text() for path in written))


@functools.cache
def _context():
    """Starts the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    variables = dict(os.environ)
    variables.pop("TF_CPP_MIN_LOG_LEVEL", None)  # Set for tests, and otherwise by `apps`.
    # Python does not tell the server where to look for what it is to import.
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    with mock.patch.dict(os.environ, variables, clear=True):
        multiprocessing.forkserver.ensure_running()
    return context


def _run(folder, function, arguments):
    for number in (1, 2):
        os.dup2(os.open(f"{folder}/{number}", os.O_WRONLY), number)
    # The server ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(ROOT)
    function(*arguments)
