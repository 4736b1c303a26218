"""A plugin of pytest that leaves out what has passed before, so that a long run can be stopped.

    python -m pytest -p tests.support.passed --passed=FILE

Every test that passes, or is skipped, is added to the file at once.
"""

import pathlib

import pytest


def pytest_addoption(parser):
    parser.addoption("--passed", help="file with the names of tests, which are not run again")


def pytest_configure(config):
    # The workers of pytest-xdist report to one process, which alone writes.
    if config.getoption("passed") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(pathlib.Path(config.getoption("passed"))))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    path = config.getoption("passed")
    if not path or not pathlib.Path(path).exists():
        return
    passed = set(pathlib.Path(path).read_text(encoding="utf-8").splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


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
