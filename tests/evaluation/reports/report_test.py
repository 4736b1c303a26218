import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import rich.console

import keras_robust as kr
from tests.support import refusals
from tests.support import reports

PROOF = kr.evaluation.ProofReport("Crown", {"norm": "Linf"}, 5, 1, 0, 0.5)


def test_round_trip_through_a_file(tmp_path):
    report = reports.make()
    report.save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    assert loaded == report
    assert loaded.attacks == report.attacks
    assert loaded.x is None
    assert loaded.attacks[0].robust is None
    assert str(loaded) == str(report)
    for field in dataclasses.fields(report)[:19]:
        assert getattr(loaded, field.name) == getattr(report, field.name)


def test_json_has_a_schema_and_every_number_but_no_arrays(tmp_path):
    report = reports.make_with_images()
    report = dataclasses.replace(report, certificates=[PROOF], certified_accuracy=1 / 6)
    report.save(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert text.endswith("}\n")
    found = json.loads(text)
    assert (found["schema"], found["schema_version"]) == ("keras_robust.robustness_report", 3)
    assert found["attacks"][0] == {
        "name": "PGD",
        "settings": reports.SETTINGS,
        "accuracy": 4 / 6,
        "accuracy_so_far": 0.5,
        "zero_gradient": 0.25,
        "seconds": 1.5,
        "num_attacked": 6,
        "queries": 2345,
    }
    assert found["attacks"][1]["accuracy"] is None
    assert found["checks"][1] == {
        "name": "convergence",
        "value": 0.375,
        "threshold": 0.0625,
        "verdict": "failed",
        "advice": "Use more steps.",
    }
    assert found["certificates"] == [
        {
            "name": "Crown",
            "settings": {"norm": "Linf"},
            "num_examples": 5,
            "num_proved": 1,
            "num_broken": 0,
            "seconds": 0.5,
        }
    ]
    arrays = {"x", "y", "x_adv", "logits", "adv_logits", "distances", "robust", "proved"}
    fields = {field.name for field in dataclasses.fields(kr.RobustnessReport)}
    assert found.keys() == fields - arrays - {"shard"} | {"schema", "schema_version"}


def test_without_proofs_the_json_is_that_of_earlier_releases():
    found = reports.make().to_dict()
    assert found["schema_version"] == 2 and "certificates" not in found
    assert "certified_accuracy" not in found
    loaded = kr.RobustnessReport.from_dict(json.loads(json.dumps(found)))
    assert (loaded.certificates, loaded.certified_accuracy, loaded.outcomes) == ([], None, None)
    proved = reports.make_with_proofs()
    found = proved.to_dict()
    assert found["schema_version"] == 3
    loaded = kr.RobustnessReport.from_dict(json.loads(json.dumps(found)))
    assert loaded == proved and loaded.certificates[0].num_proved == 1


def test_outcomes_are_broken_proved_or_inconclusive():
    robust, proved = np.array([0, 1, 1, 0], "bool"), np.array([0, 1, 0, 1], "bool")
    # The mistake of the last example refutes its proof.
    found = reports.make(robust=robust, proved=proved).outcomes
    assert found == ["broken", "proved", "inconclusive", "broken"] and len(found) == 4


@pytest.mark.exhaustive
def test_a_real_report_survives(tmp_path):
    x, y = np.array([[0.2, 0.8], [0.9, 0.1]], "float32"), np.array([1, 0])
    custom = kr.attacks.PGD(num_steps=1, loss=lambda y, logits: kr.losses.margin(y, logits))
    report = kr.evaluate(lambda x: x, (x, y), kr.Linf([0.1, 0.2]), ["fgsm", custom])
    report.save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    assert loaded == report
    # The logits are 0.6 and 0.8 apart, and the attacks move each towards the other by 0.1 and 0.2.
    assert (loaded.clean_accuracy, loaded.robust_accuracy, loaded.num_examples) == (1.0, 1.0, 2)


def test_from_dict_checks():
    with refusals.assert_refused("schema_version 2 or 3.*Received: .*schema_version=1"):
        kr.RobustnessReport.from_dict({**reports.make().to_dict(), "schema_version": 1})
    with pytest.raises(ValueError, match="Received: report.seed='x'"):
        kr.RobustnessReport.from_dict({**reports.make().to_dict(), "seed": "x"})


def test_infinite_settings_do_not_stop_a_report_from_being_saved(tmp_path):
    attack = kr.evaluation.AttackReport("FAB", {"radius": np.inf}, 0.5, 2 / 6, 0.0, 1.0)
    reports.make(attacks=[attack]).save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    assert loaded.attacks[0].settings == {"radius": "inf"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '"text"'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with refusals.assert_refused("^Expected ", folder=tmp_path):
        kr.RobustnessReport.load(tmp_path / "report.json")


def test_from_dict_leaves_its_argument_alone():
    plain = reports.make().to_dict()
    kr.RobustnessReport.from_dict(plain)
    assert plain == reports.make().to_dict()


def test_a_failed_save_keeps_the_old_file(tmp_path):
    reports.make().save(tmp_path / "report.json")
    with pytest.raises(TypeError, match="not JSON serializable"):
        reports.make(seed=object()).save(tmp_path / "report.json")
    assert kr.RobustnessReport.load(tmp_path / "report.json") == reports.make()
    assert len(list(tmp_path.iterdir())) == 1


def test_saving_replaces_an_old_report(tmp_path):
    for seed in (1, 2):
        reports.make(seed=seed).save(str(tmp_path / "report.json"))
    assert kr.RobustnessReport.load(tmp_path / "report.json").seed == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_reports_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        reports.make().seed = 3
    assert reports.make() == reports.make(x=np.ones((1, 1)))
    assert reports.make() != reports.make(seed=8)


def test_rich_prints_the_same_table():
    console = rich.console.Console(file=io.StringIO(), width=100, color_system=None)
    console.print(reports.make())
    assert console.file.getvalue().rstrip() == str(reports.make())


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    reports.make_with_images().save_html(path, class_names=["a", "b", "c"], num_examples=2)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("<img") == 6
    with pytest.raises(
        ValueError, match="one name for each of the 3 classes. Received: class_names="
    ):
        reports.make_with_images().save_html(path, class_names=["a"])
    assert path.read_text(encoding="utf-8") == text
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def test_a_page_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_robust\[plots\]'"):
        reports.make().save_html(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
