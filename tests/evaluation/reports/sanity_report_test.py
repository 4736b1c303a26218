import json
import re

import pytest
import rich

from keras_robust.evaluation import Check
from keras_robust.evaluation import SanityReport

CHECKS = [
    Check("logits", 0.125, 0.5, "passed"),
    Check("gradients", 1.0, 0.01, "failed", "Return logits."),
    Check("transfer", None, 0.01, "skipped", "No surrogate [red]was[/red] given."),
]
REPORT = SanityReport(CHECKS)


def test_failed_and_by_name():
    assert REPORT.failed == [CHECKS[1]]
    assert REPORT["transfer"] is CHECKS[2]
    with pytest.raises(
        KeyError, match="name of a check: logits, gradients, transfer. Received: 'x"
    ):
        REPORT["x"]


def test_round_trip_through_json():
    plain = json.loads(json.dumps(REPORT.to_dict()))
    assert SanityReport.from_dict(plain) == REPORT


def test_the_table_shows_every_check():
    lines = str(REPORT).splitlines()
    assert "1 of 3 checks failed" in lines[0]
    rows = {line.split("│")[1].strip(): line for line in lines if line.startswith("│")}
    assert list(rows) == ["logits", "gradients", "transfer"]
    cells = [[cell.strip() for cell in row.split("│")[2:-1]] for row in rows.values()]
    assert cells == [
        ["0.125", "0.5", "passed", ""],
        ["1", "0.01", "failed", "Return logits."],
        # Text that looks like markup is shown as text.
        ["-", "0.01", "skipped", "No surrogate [red]was[/red] given."],
    ]


def test_rich_shows_colours(capsys):
    console = rich.console.Console(force_terminal=True, width=120, color_system="standard")
    console.print(REPORT)
    shown = capsys.readouterr().out
    for colour, verdict in ((31, "failed"), (32, "passed"), (33, "skipped")):
        assert re.search(rf"\x1b\[{colour}m *{verdict}", shown)
