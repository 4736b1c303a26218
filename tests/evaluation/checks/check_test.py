import dataclasses

import numpy as np
import pytest

from keras_robust.evaluation import Check
from keras_robust.evaluation.checks.check import count_verdicts
from keras_robust.evaluation.checks.check import summarise_verdicts

CHECKS = {verdict: Check("name", 0.0, 0.0, verdict) for verdict in ("passed", "failed", "skipped")}


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (("noise", 0.123456, 0.5, "failed", "Do it."), "failed (value 0.1235, threshold 0.5). Do"),
        (("noise", None, None, "skipped", "No data."), "skipped. No data."),
        (("noise", 0.5, None, "passed"), "passed (value 0.5)"),
        (("noise", None, 0.5, "passed"), "passed (threshold 0.5)"),
    ],
)
def test_text(arguments, expected):
    assert str(Check(*arguments)).startswith(f"noise: {expected}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(np.nan)])
def test_numbers_that_json_cannot_hold_become_none(value):
    assert Check("name", value, value, "failed") == Check("name", None, None, "failed")


def test_figures_are_plain_floats():
    check = Check("name", np.float32(0.5), 3, "passed")
    assert (type(check.value), type(check.threshold)) == (float, float)
    assert (check.value, check.threshold) == (0.5, 3.0)


@pytest.mark.parametrize("verdict", ["Passed", True, None, ""])
def test_other_verdicts_are_refused(verdict):
    with pytest.raises(ValueError, match=f"passed, failed, skipped. Received: verdict={verdict!r}"):
        Check("name", None, None, verdict)


def test_checks_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHECKS["passed"].value = 3.0


@pytest.mark.parametrize(
    "verdicts,counted,summary",
    [
        ([], "", ""),
        (["passed", "passed"], "2 passed", "2 of 2 ok"),
        (["skipped", "failed", "passed"], "1 passed, 1 failed, 1 skipped", "1 of 2 failed"),
        (["skipped", "passed"], "1 passed, 1 skipped", "1 of 1 ok"),
        (["skipped", "skipped"], "2 skipped", "2 skipped"),
        (["failed"], "1 failed", "1 of 1 failed"),
    ],
)
def test_counts(verdicts, counted, summary):
    checks = [CHECKS[verdict] for verdict in verdicts]
    assert count_verdicts(checks) == counted
    assert summarise_verdicts(checks) == summary
