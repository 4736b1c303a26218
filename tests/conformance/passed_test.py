"""A long run of tests can be stopped, and goes on with those that have not passed."""

import subprocess
import sys

import pytest

from tests.support import fork_server

TESTS = """
import os
import pathlib
import pytest

def test_good(): pass
def test_bad(): assert pathlib.Path("mended").exists()
@pytest.mark.skip
def test_skipped(): pass
@pytest.fixture
def leaking():
    yield
    assert pathlib.Path("mended").exists()
def test_that_fails_at_its_end(leaking): pass
def test_that_crashes():
    if not pathlib.Path("mended").exists():
        os._exit(1)
"""


def _run(folder):
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.passed", "--passed=passed.txt"]
    return subprocess.run(
        [*command, "-q", "-n", "2", "-p", "no:cacheprovider"],
        cwd=folder,
        env={"PYTHONPATH": str(fork_server.ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.exhaustive  # Of the script of that tier.
def test_what_passed_is_not_run_again(tmp_path):
    (tmp_path / "some_test.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = *_test.py\n")
    first = _run(tmp_path)
    assert first.returncode == 1, first.stdout
    passed = (tmp_path / "passed.txt").read_text().splitlines()
    assert sorted(passed) == [f"some_test.py::{name}" for name in ("test_good", "test_skipped")]
    (tmp_path / "mended").touch()
    again = _run(tmp_path)
    assert (again.returncode, "3 passed" in again.stdout) == (0, True), again.stdout
    assert _run(tmp_path).returncode == 5
