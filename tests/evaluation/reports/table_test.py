import io

import numpy as np
import pytest
import rich.console

import keras_robust as kr
from keras_robust.evaluation.reports import table
from tests.support import reports


def _text(shown, width=100):
    console = rich.console.Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    return console.file.getvalue()


def _rows(text):
    """Returns the cells of each line of a table by its first cell, without the frame."""
    lines = (line.replace("│", "|").strip("| ").split("|") for line in text.splitlines())
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_summary_has_a_title_and_headings():
    text = _text(table.summarise(reports.make()))
    assert (
        text.splitlines()[0].strip()
        == "Linf, epsilon 8/255 of 0 to 1 (3.1%), 6 examples, Some suite"
    )
    heading = next(line for line in text.splitlines() if "accuracy" in line).split("┃")
    assert [cell.strip() for cell in heading[2:-1]] == [
        "accuracy",
        "examples",
        "model calls",
        "seconds",
    ]


def test_summary_has_the_numbers_in_their_rows():
    rows = _rows(_text(table.summarise(reports.make())))
    assert rows["clean"][:2] == ["83.3%", "6"]
    assert rows["PGD-50x10 margin"] == ["66.7%", "6", "2,345", "1.5"]
    assert rows["FGSM"] == ["33.3% so far", "4", "67", "0.5"]
    assert rows["robust (worst case)"] == ["33.3%", "", "2,412", "12.5"]
    assert rows["95% interval"][0] == "4.3% - 77.7%"
    assert rows["median distance"][0] == "0.0234"
    assert rows["attack quality checks"][0] == "1 of 2 failed"


def test_certificates_have_rows_before_the_attacks():
    text = _text(table.summarise(reports.make_with_proofs()))
    rows = _rows(text)
    assert rows["Interval"] == ["16.7% proved", "5", "-", "0.8"]
    assert rows["Crown"] == ["0.0% proved", "3", "-", "2.2"]
    assert rows["certified (lower bound)"][0] == "16.7%"
    assert text.index("clean") < text.index("Interval") < text.index("Crown") < text.index("PGD")
    both = _text(kr.evaluation.compare({"a": reports.make(), "b": reports.make_with_proofs()}))
    assert _rows(both)["certified (lower bound)"] == ["-", "16.7%"]
    assert "certified" not in _text(table.summarise(reports.make()))


def test_a_certificate_that_had_no_examples_proved_no_share():
    proofs = [kr.evaluation.ProofReport("Interval", {}, left, 0, 0, 0.5) for left in (0, 6)]
    for proof, expected in zip(proofs, ("-", "0.0% proved"), strict=True):
        assert table.share_proved(proof, 6) == expected
        text = _text(table.summarise(reports.make(certificates=[proof])))
        assert _rows(text)["Interval"][0] == expected


def test_warnings_are_below_the_table():
    text = " ".join(_text(table.summarise(reports.make())).split())
    failed = "- Check convergence: failed (value 0.375, threshold 0.0625). Use more steps."
    assert text.endswith(f"- something is odd {failed}")
    assert "noise:" not in text and "transfer:" not in text
    assert text.count("Check ") == 1


def test_missing_fields_are_left_out():
    report = reports.make(
        attacks=[kr.evaluation.AttackReport("PGD", {}, 0.5, 0.5, 0.0, 1.0)],
        suite=None,
        queries=None,
        checks=[],
        median_distance=None,
        warnings=[],
    )
    text = _text(table.summarise(report))
    assert text.splitlines()[0].strip() == "Linf, epsilon 8/255 of 0 to 1 (3.1%), 6 examples"
    assert _rows(text)["PGD"] == ["50.0%", "-", "-", "1.0"]
    assert "median" not in text and "checks" not in text
    assert text.rstrip().endswith("┘")


def test_text_is_no_markup_of_rich():
    report = reports.make(warnings=["Received: [bold] and x=[/]"], suite="[red]suite")
    attack = kr.evaluation.AttackReport("PGD", {"loss": "[b]"}, 0.5, 0.5, 0.0, 1.0)
    text = _text(table.summarise(report)) + _text(table.compare({"[i]one": report}))
    for words in ("Received: [bold] and x=[/]", "[red]suite", "[i]one"):
        assert words in text
    assert "PGD [b]" in _text(table.summarise(reports.make(attacks=[attack])))


def _compared():
    hardened = reports.make(clean_accuracy=0.9, robust_accuracy=0.8, warnings=[], checks=[])
    return _text(kr.evaluation.compare({"undefended": reports.make(), "hardened": hardened}))


def test_compare_puts_reports_side_by_side():
    text = _compared()
    heading = next(line for line in text.splitlines() if "undefended" in line)
    assert heading.index("undefended") < heading.index("hardened")
    rows = _rows(text)
    assert rows["clean"] == ["83.3%", "90.0%"]
    assert rows["robust (worst case)"] == ["33.3%", "80.0%"]
    assert rows["FGSM"] == ["33.3% so far", "33.3% so far"]
    assert rows["attack quality checks"][0] == "1 of 2 failed"


def test_compare_shows_the_warnings_of_each_report():
    text = _compared()
    assert "undefended: something is odd" in text
    assert "undefended: Check convergence: failed" in text
    assert text.count("undefended: ") == 2
    assert "hardened: " not in text


def test_compare_refuses_reports_under_other_attacks():
    with pytest.raises(ValueError):
        kr.evaluation.compare({"a": reports.make(), "b": reports.make(attacks=[])})


@pytest.mark.parametrize(
    "number,expected",
    [(None, "-"), (1234, "1,234"), (np.int64(1234), "1,234"), (1234.56, "1,234.6"), (0, "0")],
)
def test_amounts(number, expected):
    assert table.amount(number) == expected
