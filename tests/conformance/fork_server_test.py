"""A fork of the server is a process like any other."""

import os
import pathlib
import signal
import sys
import time

import pytest

from tests.support import fork_server


def _write():
    sys.stdout.write("out\n")
    os.write(2, b"err\n")
    sys.exit(3)


def _fail(message):
    raise ValueError(message)


def _state():
    sys.stdout.write(f"{signal.getsignal(signal.SIGINT) is signal.default_int_handler} ")
    sys.stdout.write(f"{pathlib.Path.cwd() == fork_server.ROOT} ")
    sys.stdout.write(f"{'keras_robust' in sys.modules}")


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_exit_codes_and_what_was_written():
    assert fork_server.call(_write) == (3, "out\n", "err\n")
    failed = fork_server.call(_fail, "no such thing")
    assert (failed.code, failed.stdout) == (1, "")
    assert failed.stderr.endswith("ValueError: no such thing\n")
    assert fork_server.call(_die).code == -signal.SIGKILL


def test_starts_in_the_project_with_imports_done():
    done = fork_server.call(_state)
    assert (done.code, done.stdout) == (0, "True True True"), done.stderr


def _change_and_show():
    sys.stdout.write(f"{hasattr(fork_server, 'changed')}")
    fork_server.changed = True


def test_forks_share_nothing():
    assert [fork_server.call(_change_and_show).stdout for _ in range(2)] == ["False", "False"]


def test_is_killed_when_its_time_is_up():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="took longer than 0.5 seconds"):
        fork_server.call(time.sleep, 60, timeout=0.5)
    assert time.monotonic() - start < 30
