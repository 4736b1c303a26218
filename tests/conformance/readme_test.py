"""What the README shows runs, and what it names exists."""

import json
import pathlib
import re

import pytest

import keras_robust as kr

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.exhaustive
def test_the_first_example_hardens_evaluates_and_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(BLOCKS[0], names)
    assert (tmp_path / "models" / "digits" / "1" / "saved_model.pb").exists()
    assert names["report"].clean_accuracy > 0.9
    assert names["report"].robust_accuracy > 0.5
    assert f"{names['report'].robust_accuracy:.1%}" in capsys.readouterr().out


def test_the_other_examples_are_valid_python():
    assert len(BLOCKS) == 8
    for block in BLOCKS:
        compile(block, "README.md", "exec")


def test_every_public_class_is_named():
    packages = (kr.attacks, kr.objectives, kr.threat_models, kr.callbacks)
    classes = [cls for one in (*packages, kr.layers, kr.certification) for cls in one.ALL]
    assert len(classes) > 70
    for cls in classes:
        assert re.search(rf"[`.]{cls.__name__}[`(]", README), cls.__name__


def test_every_program_is_named():
    paths = (pathlib.Path(__file__).parents[2] / "apps").glob("*.py")
    programs = [path.stem for path in paths if "def run_main" in path.read_text(encoding="utf-8")]
    assert len(programs) == 6
    for name in programs:
        assert f"python -m apps.{name}" in README


def test_the_numbers_are_those_of_the_recorded_reports():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    for name in ("digits", "fashion_mnist"):
        hardened = kr.RobustnessReport.load(folder / f"{name}.json")
        undefended = kr.RobustnessReport.load(folder / f"{name}_undefended.json")
        for report, row in ((undefended, "undefended | {} | {}"), (hardened, "**{}** | **{}**")):
            numbers = (100 * report.clean_accuracy, 100 * report.robust_accuracy)
            assert row.format(*(f"{number:.1f}" for number in numbers)) in README


def test_the_tables_of_speed_are_those_of_the_recorded_runs():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "training_step.json").read_text(encoding="utf-8"))["rows"]
    table = README[README.index("<!-- speed -->") : README.index("<!-- end speed -->")]
    numbers = r"([\d-]+) \| (\d+) \| ([\d.]+) \| (\d+)"
    shown = re.findall(rf"^\| (\w.*?) \| {numbers} \|$", table, re.MULTILINE)
    assert {"plain fit", "AdvTrain", "AdvTrain, bfloat16 attack"} <= {name for name, *_ in shown}
    # Besides them a heading and the line below it.
    assert len(shown) == table.count("\n|") - 2
    plain = rows["plain fit"]["cpu_milliseconds"]
    for name, images, milliseconds, ratio, memory in shown:
        row = rows[name]
        assert images in ("-", f"{row['images_per_second']:.0f}"), name
        assert milliseconds == f"{row['cpu_milliseconds']:.0f}", name
        assert ratio == f"{row['cpu_milliseconds'] / plain:.1f}", name
        assert memory == str(row["peak_mebibytes"]), name


def test_the_costs_of_the_objectives_are_those_of_the_recorded_run():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "objective_cost.json").read_text(encoding="utf-8"))["rows"]
    shares = {name: row["of_floor"] for name, row in rows.items() if "of_floor" in row}
    free = shares.pop("free")
    assert len(shares) > 20
    low, high = min(shares.values()), max(shares.values())
    assert f"takes {low:.2f} to {high:.2f} of the CPU time of its passes" in README
    assert f"`Free` {free:.2f}" in README


def test_the_table_of_low_precision_is_that_of_the_recorded_trainings():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "low_precision_attack.json").read_text(encoding="utf-8"))["rows"]
    table = README[
        README.index("<!-- low precision -->") : README.index("<!-- end low precision -->")
    ]
    for objective, network in (("Adversarial", "small"), ("TRADES", "small TRADES")):
        for dtype in (None, "bfloat16"):
            same = [
                row
                for row in rows.values()
                if (row["network"], row["attack_dtype"]) == (network, dtype)
            ]
            figures = []
            for key in ("clean", "robust"):
                values = [100 * row[key] for row in same]
                mean = sum(values) / len(values)
                figures.append(f"{mean:.1f} ({min(values):.1f} - {max(values):.1f})")
            row = f"| `{objective}` | {dtype or 'float32'} | {' | '.join(figures)} |"
            assert len(same) == 3 and row in table


def test_the_table_of_defences_is_that_of_the_recorded_runs():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "defences.json").read_text(encoding="utf-8"))["rows"]
    table = README[README.index("<!-- every defence -->") : README.index("<!-- end -->")]
    shown = dict(re.findall(r"^\| `(\w+)`.*?\| (\d+\.\d \| \d+\.\d) \|", table, re.MULTILINE))
    assert shown.keys() == rows.keys()
    for name, row in rows.items():
        assert shown[name] == f"{100 * row['clean']:.1f} | {100 * row['robust']:.1f}", name


def test_the_table_of_controls_is_that_of_the_recorded_runs():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "negative_controls.json").read_text(encoding="utf-8"))["rows"]
    table = README[README.index("<!-- controls -->") : README.index("<!-- end controls -->")]
    shown = re.findall(
        r"\| ([\d.]+ \| [\d.]+ \| [\d.]+ \| [\d.]+) \| (.*?) \|$", table, re.MULTILINE
    )
    expected = []
    for row in rows.values():
        accuracies = (100 * row[key] for key in ("clean", "pgd_cross_entropy", "standard"))
        figures = " | ".join(f"{number:.1f}" for number in accuracies)
        failed = set(sum(row["failed_checks"].values(), []))
        expected.append((f"{row['epsilon']:g} | {figures}", failed))
    found = [(figures, set(checks.split(", ")) - {"—"}) for figures, checks in shown]
    assert len(found) == table.count("\n|") - 2
    assert sorted(found, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_table_of_autoattack_is_that_of_the_recorded_reports(norm):
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    report = kr.RobustnessReport.load(folder / f"fashion_mnist_autoattack_{norm}.json")
    assert report.num_examples == 1000 and report.suite == "AutoAttack standard"
    numbers = f"{100 * report.clean_accuracy:.1f} | **{100 * report.robust_accuracy:.1f}** |"
    assert numbers in README
    assert f"| {report.seconds / 60:.1f} |" in README


def test_the_table_of_certificates_is_that_of_the_recorded_runs():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "certified_accuracy.json").read_text(encoding="utf-8"))["rows"]
    table = README[README.index("<!-- certified -->") : README.index("<!-- end certified -->")]
    shown = []
    for line in table.splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if len(cells) == 7 and cells[0] not in ("network", "---"):
            radii = re.findall(r"0\.\d+", cells[2])
            certified = re.findall(r"\d+\.\d", cells[4])
            under_attack = re.match(r"[\d.]+", cells[5])
            shown.append((cells[3], dict(zip(radii, certified, strict=True)), under_attack))
    found = {}
    for name, row in rows.items():
        accuracies = {key: f"{100 * value:.1f}" for key, value in row["certified_accuracy"].items()}
        found[f"{100 * row['clean_accuracy']:.1f}"] = (name, accuracies, row["attacked"])
    assert len(shown) == 7
    for clean, certified, under_attack in shown:
        name, accuracies, attacked = found[clean]
        assert certified.items() <= accuracies.items(), name
        if under_attack:
            assert under_attack[0] == f"{100 * attacked['accuracy']['AutoAttack']:.1f}", name
