import re
import sys

import keras
import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr
from apps import evaluate
from apps import models
from keras_robust import datasets
from tests.support import programs

FLAGS = ["--attacks=pgd", "--evaluation_steps=2", "--evaluation_restarts=1"]
FLAGS += ["--evaluation_examples=40"]
ERROR_CASES = [
    ("", "flag --model=None: Flag --model must have a value other than None."),
    ("--model={folder}/missing", "Received: --model={folder}/missing"),
    ("--model={folder}/corrupt.keras", "corrupt.keras is not a readable Keras model: "),
    ("--model={folder}", "The folder {folder} is not a readable SavedModel"),
    ("--model={folder}/other.keras", "The data set digits needs a model from (None, 8, 8, 1)"),
    ("--model={folder}/model.keras --dataset=no_such_images", "no_such_images"),
    ("--model={folder}/model.keras --threat_model=l3", "flag --threat_model=l3: "),
    ("--model={folder}/model.keras --attacks=sledge", "Received: 'sledge'"),
    ("--model={folder}/model.keras --certificates=smoothing", "about the vote over noisy copies"),
    ("--model={folder}/model.keras --shard=4/4", "Received: shard='4/4'"),
    ("--model={folder}/model.keras --shard=0/2 --workers=2", "Received: --workers=2 --shard=0/2"),
    ("--model={folder}/model.keras --address=auto", "Received: --address=auto"),
    ("--model={folder}/model.keras --epsilon=1/0", "Received: epsilon='1/0'"),
    ("--model={folder}/model.keras --output_dir={folder}/corrupt.keras/out", "corrupt.keras"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same network as a .keras file and as a SavedModel, and files that are wrong."""
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("evaluate")
    dataset = datasets.load("digits")
    network = models.small_cnn(dataset.input_shape, dataset.num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.01), loss)
    network.fit(*dataset.train, batch_size=128, epochs=2, verbose=0)
    network.save(folder / "model.keras")
    kr.export_saved_model(network, folder / "saved" / "1", guard=kr.layers.InputGuard())
    (folder / "corrupt.keras").write_text("nothing")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(folder / "other.keras")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Returns the output of the program for both formats."""
    commands = [
        [f"--model={folder}/model.keras", f"--output_dir={folder}/keras", *FLAGS],
        [f"--model={folder}/saved/1", f"--output_dir={folder}/served", *FLAGS],
    ]
    return programs.run_all("evaluate", commands)


@pytest.fixture(scope="module")
def failures(folder):
    """Returns the output of the program for every wrong command line."""
    commands = [[*FLAGS, *case.format(folder=folder).split()] for case, _ in ERROR_CASES]
    return programs.run_all("evaluate", commands)


@pytest.mark.exhaustive
def test_both_formats_have_the_same_accuracies(folder, results):
    for result in results:
        assert (result.code, result.stderr) == (0, "")
    reports = [
        kr.RobustnessReport.load(folder / name / "report.json") for name in ("keras", "served")
    ]
    assert reports[0].clean_accuracy == reports[1].clean_accuracy > 0.7
    assert reports[0].robust_accuracy == reports[1].robust_accuracy
    accuracies = [[attack.accuracy for attack in report.attacks] for report in reports]
    assert accuracies[0] == accuracies[1]
    # Ignore the seconds, which change the width of their column, and the folder in the last line.
    tables = [
        re.sub(r"[\d.,]+ *│$|[ ─━]+", "", result.stdout, flags=re.MULTILINE) for result in results
    ]
    assert tables[0].splitlines()[:-1] == tables[1].splitlines()[:-1]


@pytest.mark.exhaustive
def test_the_report_is_what_the_library_says(folder, results):
    x, y = (part[:40] for part in datasets.load("digits").test)
    network = keras.models.load_model(folder / "model.keras")
    suite = [kr.attacks.PGD(num_steps=2, loss=loss) for loss in ("cross_entropy", "margin")]
    expected = kr.evaluate(network, (x, y), kr.Linf(0.15), suite)
    found = kr.RobustnessReport.load(folder / "keras" / "report.json")
    assert found.robust_accuracy == expected.robust_accuracy
    assert found.confidence == expected.confidence
    assert (found.num_examples, found.seed) == (40, 0)
    assert found.threat_model["config"]["epsilon"] == "0.15"
    assert found.robust_accuracy < found.clean_accuracy


@pytest.mark.exhaustive
def test_files_and_output(folder, results):
    for result, name in zip(results, ("keras", "served"), strict=True):
        assert "Linf, epsilon 0.15 of 0 to 1 (15%), 40 examples" in result.stdout
        assert result.stdout.splitlines()[-1] == f"Written to {folder / name}"
        found = {item.name for item in (folder / name).iterdir()}
        assert found == {"report.json", "report.html", "examples.png"}
        assert matplotlib.image.imread(folder / name / "examples.png").ndim == 3


@pytest.mark.exhaustive
def test_without_an_output_folder_nothing_is_written(folder):
    result = programs.run(
        "evaluate",
        f"--model={folder}/model.keras",
        "--attacks=fgsm,square",
        "--sanity_check",
        "--epsilon=0.02",
        "--threat_model=l2",
        "--evaluation_examples=40",
    )
    assert (result.code, result.stderr) == (0, "")
    assert "L2, epsilon 0.02 of 0 to 1 in 64 features (0.25%), 40 examples" in result.stdout
    assert "checks failed" in result.stdout
    assert "FGSM" in result.stdout and "Square" in result.stdout
    assert "Written" not in result.stdout


def test_help():
    result = programs.run("evaluate", "--help")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("Evaluates a trained classifier: attacks it and prints")
    assert "--evaluation_restarts" in result.stdout


@pytest.mark.parametrize("index", range(len(ERROR_CASES)), ids=[case[0] for case in ERROR_CASES])
def test_failures_are_one_line(folder, failures, index):
    result, message = failures[index], ERROR_CASES[index][1].format(folder=folder)
    programs.assert_one_line(result, message)


def test_certificates_are_run_before_the_attacks(folder):
    flags = ["--certificates=interval,crown", "--epsilon=0.002", "--attacks=fgsm"]
    result = programs.run(
        "evaluate",
        f"--model={folder}/model.keras",
        f"--output_dir={folder}/proved",
        "--evaluation_examples=8",
        *flags,
    )
    assert (result.code, result.stderr) == (0, "")
    report = kr.RobustnessReport.load(folder / "proved" / "report.json")
    first, second = report.certificates
    assert (first.name, second.name) == ("Interval", "Crown")
    assert second.num_examples == first.num_examples - first.num_proved
    left = second.num_examples - second.num_proved
    assert report.attacks[0].num_attacked == left < first.num_examples
    assert report.certified_accuracy == (first.num_proved + second.num_proved) / 8
    assert "certified (lower bound)" in result.stdout


@pytest.mark.exhaustive
def test_run_returns_the_report_and_needs_no_matplotlib(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    dataset = datasets.load("digits")
    report = evaluate.run(
        models.load_for_attack(str(folder / "model.keras")),
        dataset,
        kr.Linf(0.05),
        [kr.attacks.FGSM()],
        num_examples=10,
        batch_size=4,
        seed=3,
        output_dir=str(tmp_path / "out"),
    )
    assert (report.num_examples, report.seed) == (10, 3)
    np.testing.assert_array_equal(report.y, dataset.test[1][:10])
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["report.json"]
    assert "pip install 'keras_robust[plots]'" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_shards_of_the_program_are_merged_to_the_report_of_one(folder):
    found = []
    for count in (1, 2):
        for index in range(count):
            output = folder / f"shard_{index}_of_{count}"
            flags = [f"--model={folder}/model.keras", f"--shard={index}/{count}"]
            result = programs.run("evaluate", *FLAGS, *flags, f"--output_dir={output}")
            assert (result.code, result.stderr) == (0, "")
            assert f"{40 // count} examples, shard {index}/{count}" in result.stdout
            found.append(kr.RobustnessReport.load(output / "report.json"))
    one, two = kr.RobustnessReport.merge(found[:1]), kr.RobustnessReport.merge(found[1:])
    assert (two.num_examples, two.robust_accuracy) == (40, one.robust_accuracy)
    assert (two.queries, two.curve, two.checks) == (one.queries, one.curve, one.checks)
