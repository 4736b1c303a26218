import dataclasses
import io
import json

import numpy as np
import pytest
import rich.console

import keras_robust as kr
from keras_robust.evaluation import report as report_module

SETTINGS = {"num_steps": 50, "num_restarts": 10, "loss": "margin"}


def _report(**changes):
    arguments = {
        "threat_model": {
            "class_name": "Linf",
            "config": {"epsilon": "8/255", "bounds": [0, 1]},
            "epsilon": 0.0313725,
        },
        "num_examples": 3,
        "num_classes": 10,
        "clean_accuracy": 0.987,
        "robust_accuracy": 0.456,
        "confidence": (0.123, 0.789),
        "attacks": [
            kr.evaluation.AttackReport(
                "PGD", SETTINGS, 0.543, 0.543, 0.25, 1.5, robust=np.ones(3, bool)
            ),
            kr.evaluation.AttackReport("FGSM", {"loss": None}, 0.654, 0.432, 0.0, 0.5),
        ],
        "warnings": ["something is odd"],
        "seed": 7,
        "versions": {"keras": "3"},
        "seconds": 12.5,
        "x": np.zeros((3, 2)),
        **changes,
    }
    return kr.RobustnessReport(**arguments)


def test_round_trip_through_a_file(tmp_path):
    report = _report()
    report.save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    assert loaded == report
    assert loaded.attacks == report.attacks
    assert loaded.x is None
    assert loaded.attacks[0].robust is None
    assert str(loaded) == str(report)
    for field in dataclasses.fields(report)[:11]:
        assert getattr(loaded, field.name) == getattr(report, field.name)


def test_json_has_a_schema_and_every_number_but_no_arrays(tmp_path):
    _report().save(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "schema": "keras_robust.robustness_report",
        "schema_version": 1,
        "threat_model": {
            "class_name": "Linf",
            "config": {"epsilon": "8/255", "bounds": [0, 1]},
            "epsilon": 0.0313725,
        },
        "num_examples": 3,
        "num_classes": 10,
        "clean_accuracy": 0.987,
        "robust_accuracy": 0.456,
        "confidence": [0.123, 0.789],
        "attacks": [
            {
                "name": "PGD",
                "settings": SETTINGS,
                "accuracy": 0.543,
                "accuracy_so_far": 0.543,
                "zero_gradient": 0.25,
                "seconds": 1.5,
            },
            {
                "name": "FGSM",
                "settings": {"loss": None},
                "accuracy": 0.654,
                "accuracy_so_far": 0.432,
                "zero_gradient": 0.0,
                "seconds": 0.5,
            },
        ],
        "warnings": ["something is odd"],
        "seed": 7,
        "versions": {"keras": "3"},
        "seconds": 12.5,
    }


def test_a_real_report_survives(tmp_path):
    x, y = np.array([[0.2, 0.8], [0.9, 0.1]], "float32"), np.array([1, 0])
    custom = kr.attacks.PGD(num_steps=1, loss=lambda y, logits: kr.losses.margin(y, logits))
    report = kr.evaluate(lambda x: x, (x, y), kr.Linf([0.1, 0.2]), ["fgsm", custom])
    report.save(tmp_path / "report.json")
    assert kr.RobustnessReport.load(tmp_path / "report.json") == report


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"schema": "other"}, {"schema": None}])
def test_other_schemas_are_refused(change):
    plain = {**_report().to_dict(), **change}
    message = "Expected a report with schema 'keras_robust.robustness_report' and schema_version 1"
    with pytest.raises(ValueError, match=message):
        kr.RobustnessReport.from_dict(plain)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '"text"'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError):
        kr.RobustnessReport.load(tmp_path / "report.json")


def test_from_dict_leaves_its_argument_alone():
    plain = _report().to_dict()
    kr.RobustnessReport.from_dict(plain)
    assert plain == _report().to_dict()


@pytest.mark.parametrize("method", ["write_text", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, method):
    path = tmp_path / "report.json"
    path.write_text("old")
    original = getattr(report_module.pathlib.Path, method)

    def fail(self, *arguments, **keywords):
        if method == "write_text":
            original(self, "half", encoding="utf-8")
        raise OSError("No space left on device")

    monkeypatch.setattr(report_module.pathlib.Path, method, fail)
    with pytest.raises(OSError, match="No space left"):
        _report().save(path)
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ["report.json"]
    assert path.read_text() == "old"


def test_saving_replaces_an_old_report(tmp_path):
    for seed in (1, 2):
        _report(seed=seed).save(str(tmp_path / "report.json"))
    assert kr.RobustnessReport.load(tmp_path / "report.json").seed == 2
    assert len(list(tmp_path.iterdir())) == 1


def _rows(text):
    """The cells of the lines of a table, without its frame."""
    return [line.replace("│", "|").strip("| ").split() for line in text.splitlines()]


def test_table_has_the_numbers_in_their_rows():
    text = str(_report())
    lines = text.splitlines()
    assert "Linf, epsilon 8/255, 3 examples" in lines[0]
    rows = {" ".join(row[:-1]).strip(" |"): row[-1] for row in _rows(text) if row}
    assert rows["clean"] == "98.7%"
    assert rows["PGD-50x10 margin"] == "54.3%"
    assert rows["FGSM"] == "65.4%"
    assert rows["robust (worst case)"] == "45.6%"
    assert any("95% interval" in line and "12.3% - 78.9%" in line for line in lines)
    assert "accuracy: something is odd" in text


def test_rich_prints_the_same_table():
    console = rich.console.Console(file=io.StringIO(), width=100, color_system=None)
    console.print(_report())
    assert console.file.getvalue().rstrip() == str(_report())


def test_compare_puts_reports_side_by_side():
    hardened = _report(clean_accuracy=0.9, robust_accuracy=0.8, warnings=[])
    console = rich.console.Console(file=io.StringIO(), width=100, color_system=None)
    console.print(kr.evaluation.compare({"undefended": _report(), "hardened": hardened}))
    lines = console.file.getvalue().splitlines()
    heading = next(line for line in lines if "undefended" in line)
    assert heading.index("undefended") < heading.index("hardened")
    found = {name: next(line for line in lines if name in line) for name in ("clean", "robust")}
    assert found["clean"].index("98.7%") < found["clean"].index("90.0%")
    assert found["robust"].index("45.6%") < found["robust"].index("80.0%")
    assert "undefended: something is odd" in console.file.getvalue()
    assert "hardened: " not in console.file.getvalue()


@pytest.mark.parametrize(
    "settings,expected",
    [
        ({}, "Name"),
        ({"num_steps": 1, "num_restarts": 1, "loss": None}, "Name"),
        ({"num_steps": 20}, "Name-20"),
        ({"num_steps": 20, "num_restarts": 3, "loss": "dlr"}, "Name-20x3 dlr"),
    ],
)
def test_labels_tell_the_strength_of_an_attack(settings, expected):
    attack = kr.evaluation.AttackReport("Name", settings, 0.5, 0.5, 0.0, 1.0)
    rows = _rows(str(_report(attacks=[attack])))
    assert any(" ".join(row[:-1]).strip(" |") == expected and row[-1] == "50.0%" for row in rows)


def test_reports_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _report().seed = 3
    assert _report() == _report(x=np.ones((1, 1)))
    assert _report() != _report(seed=8)


def test_a_list_of_radii_is_shown_as_a_range():
    threat_model = {
        "class_name": "Linf",
        "config": {"epsilon": [0.1, 0.3], "bounds": None},
        "epsilon": [0.1, 0.3],
    }
    assert "Linf, epsilon 0.1 to 0.3, 3 examples" in str(_report(threat_model=threat_model))
