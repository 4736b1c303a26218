"""A plugin of pytest that leaves out what has passed before, so that a long run can be stopped.

    python -m pytest -p tests.support.passed --passed=FILE

Every test that passes, or is skipped, is added to the file at once.
"""

import os
import pathlib

import pytest


def pytest_addoption(parser):
    parser.addoption("--passed", help="file with the names of tests, which are not run again")


def pytest_configure(config):
    # The workers of pytest-xdist report to one process, which alone reads and writes the file.
    if hasattr(config, "workerinput"):
        config.passed = set(config.workerinput["passed"])
        return
    path = config.getoption("passed")
    lines = pathlib.Path(path).read_text(encoding="utf-8") if path and os.path.exists(path) else ""
    config.passed = set(lines.splitlines())
    if path:
        config.pluginmanager.register(_Recorder(pathlib.Path(path)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    # Also of a worker that starts later, in place of one that has crashed.
    node.workerinput["passed"] = sorted(node.config.passed)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    done = [item for item in items if item.nodeid in config.passed]
    if done:
        config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if item.nodeid not in config.passed]


class _Recorder:
    """Adds a test to the file once all its phases ended well."""

    def __init__(self, path):
        self._path, self._failed = path, set()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "teardown" and report.nodeid not in self._failed:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{report.nodeid}\n")
