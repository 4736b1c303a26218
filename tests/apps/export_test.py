import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from apps import export
from tests.support import programs

X = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
ERROR_CASES = [
    ("--output_dir={folder}/new", "flag --model=None: Flag --model must have a value"),
    ("--model={folder}/model.keras", "flag --output_dir=None: Flag --output_dir must have a value"),
    ("--model={folder}/no --output_dir={folder}/new", "Received: --model={folder}/no"),
    ("--model={folder}/bad --output_dir={folder}/new", "bad is not a readable Keras model: "),
    ("--model={folder}/model.keras --output_dir={folder}/models", "is never changed: give a new"),
    ("--model={folder}/model.keras --output_dir={folder}/bad/1", "{folder}/bad"),
    (
        "--model={folder}/model.keras --output_dir={folder}/new --label_names=a,b",
        "Expected 3 label names, one for each class. Received: 2 names",
    ),
    (
        "--model={folder}/model.keras --output_dir={folder}/new --report={folder}/none.json",
        "none.json",
    ),
    (
        "--model={folder}/model.keras --output_dir={folder}/new --report={folder}/other.json",
        "Expected a report with schema 'keras_robust.robustness_report'",
    ),
    (
        "--model={folder}/regression.keras --output_dir={folder}/new",
        "error: Expected one classification output",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its report, and files that are wrong."""
    folder = tmp_path_factory.mktemp("export")
    network = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    network.save(folder / "model.keras")
    report = kr.evaluate(network, (X, np.zeros(5, "int64")), kr.Linf(0.1), "fgsm")
    report.save(folder / "report.json")
    regression = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    regression.compile("sgd", "mse")
    regression.save(folder / "regression.keras")
    (folder / "bad").write_text("nothing")
    (folder / "other.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """What the program says to every command line."""
    good = [f"--model={folder}/model.keras", f"--output_dir={folder}/models/7"]
    commands = [[*good, f"--report={folder}/report.json", "--label_names=a,b,c"], ["--help"]]
    commands += [case.format(folder=folder).split() for case, _ in ERROR_CASES]
    return programs.run_all("export", commands)


def test_writes_a_saved_model(folder, results):
    path = folder / "models" / "7"
    assert results[0] == (
        0,
        f"Written to {path}: signatures serving_default and logits\n",
        "",
    )
    loaded = tf.saved_model.load(str(path))
    found = loaded.signatures["serving_default"](features=tf.constant(X))
    network = keras.models.load_model(folder / "model.keras")
    expected = keras.ops.softmax(network.predict(X, verbose=0))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    names = np.array([b"a", b"b", b"c"])
    np.testing.assert_array_equal(found["label_name"], names[np.argmax(expected, axis=-1)])
    report = kr.RobustnessReport.load(path / "assets.extra" / "robustness.json")
    assert report == kr.RobustnessReport.load(folder / "report.json")


def test_help(results):
    assert (results[1].code, results[1].stderr) == (0, "")
    assert results[1].stdout.startswith("Writes a trained classifier as a SavedModel")
    assert "--label_names" in results[1].stdout


@pytest.mark.parametrize("index", range(len(ERROR_CASES)), ids=[case[0] for case in ERROR_CASES])
def test_failures_are_one_line(folder, results, index):
    result, message = results[2 + index], ERROR_CASES[index][1].format(folder=folder)
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_failures_leave_nothing_behind(folder, results):
    names = {"model.keras", "regression.keras", "report.json", "other.json", "bad", "models"}
    assert {item.name for item in folder.iterdir()} == names
    assert [item.name for item in (folder / "models").iterdir()] == ["7"]


def test_run_needs_neither_report_nor_names(folder, tmp_path, capsys):
    path = export.run(str(folder / "model.keras"), str(tmp_path / "1"))
    assert path == tmp_path / "1"
    assert not (path / "assets.extra").exists()
    assert capsys.readouterr().out == f"Written to {path}: signatures serving_default and logits\n"
