import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from apps import export
from apps import models
from apps import shared_flags
from keras_robust import datasets
from keras_robust.export.manifest import fingerprint
from tests.support import backends
from tests.support import programs
from tests.support import refusals

X = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
ERROR_CASES = [
    ("--output_dir={folder}/new", "flag --model=None: Flag --model must have a value"),
    ("--model={folder}/model.keras", "flag --output_dir=None: Flag --output_dir must have a value"),
    ("--model={folder}/no --output_dir={folder}/new", "Received: --model={folder}/no"),
    ("--model={folder}/bad --output_dir={folder}/new", "bad is not a readable Keras model: "),
    ("--model={folder}/model.keras --output_dir={folder}/models", "must never change: pass a new"),
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
        "--model={folder}/model.keras --output_dir={folder}/new --format=litert --verify",
        "Received: --verify with --format=litert",
    ),
    ("--model={folder}/model.keras --output_dir={folder}/new --format=torch", "should be one of"),
    (
        "--model={folder}/model.keras --output_dir={folder}/new --bounds=255",
        "Received: --bounds=255",
    ),
    (
        "--model={folder}/model.keras --output_dir={folder}/new --report={folder}/report.json "
        "--bounds=0,255",
        "Received: --bounds=0,255 and a report with bounds [0.0, 1.0]",
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
    """Returns the output of the program for every command line."""
    good = [f"--model={folder}/model.keras", f"--output_dir={folder}/models/7"]
    commands = [[*good, f"--report={folder}/report.json", "--label_names=a,b,c"], ["--help"]]
    commands += [case.format(folder=folder).split() for case, _ in ERROR_CASES]
    return programs.run_all("export", commands)


def test_writes_a_saved_model(folder, results):
    path = folder / "models" / "7"
    assert results[0] == (
        0,
        f"Written to {path}: signatures logits, serving_default\n",
        "",
    )
    loaded = tf.saved_model.load(str(path))
    found = loaded.signatures["serving_default"](features=tf.constant(X))
    network = keras.models.load_model(folder / "model.keras")
    expected = keras.ops.softmax(network.predict(X, verbose=0))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    names = np.array([b"a", b"b", b"c"])
    np.testing.assert_array_equal(found["label_name"], names[np.argmax(expected, axis=-1)])
    plain = json.loads((path / "assets.extra" / "robustness.json").read_text())
    assert kr.RobustnessReport.from_dict(plain["report"]) == kr.RobustnessReport.load(
        folder / "report.json"
    )


@backends.tensorflow_only("the other formats are made from its graphs")
@pytest.mark.filterwarnings("ignore")
def test_other_formats(folder, tmp_path, capsys):
    names = ["a", "b", "c"]
    export.run_portable("litert", str(folder / "model.keras"), str(tmp_path / "1"), None, names)
    assert (
        capsys.readouterr().out.splitlines()[-1].endswith("litert, with the predictions of Keras")
    )
    assert (tmp_path / "1" / "model.tflite").exists()
    assert "- 2: c" in (tmp_path / "1" / "MODEL_CARD.md").read_text()


def test_help(results):
    assert (results[1].code, results[1].stderr) == (0, "")
    assert results[1].stdout.startswith("Exports a trained classifier as a SavedModel")
    assert "--label_names" in results[1].stdout


@pytest.mark.parametrize("index", range(len(ERROR_CASES)), ids=[case[0] for case in ERROR_CASES])
def test_failures_are_one_line(folder, results, index):
    result, message = results[2 + index], ERROR_CASES[index][1].format(folder=folder)
    programs.assert_one_line(result, message)
    assert result.stdout == ""


def test_failures_leave_nothing_behind(folder, results):
    names = {"model.keras", "regression.keras", "report.json", "other.json", "bad", "models"}
    assert {item.name for item in folder.iterdir()} == names
    assert [item.name for item in (folder / "models").iterdir()] == ["7"]


def test_bounds_are_those_of_the_guard(folder, tmp_path):
    """A model for inputs from 0 to 255 without a report."""
    model = f"--model={folder}/model.keras"
    done = programs.run("export", model, f"--output_dir={tmp_path}/1", "--bounds=0,255")
    assert (done.code, done.stderr) == (0, "")
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    network = keras.models.load_model(folder / "model.keras")
    expected = keras.ops.softmax(network.predict(255.0 * X, verbose=0))
    found = serve(features=tf.constant(255.0 * X))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="255"):
        serve(features=tf.constant(256.0 + X))


def test_run_needs_neither_report_nor_names(folder, tmp_path, capsys):
    with pytest.warns(UserWarning, match="Without a report the range of valid inputs is unknown"):
        _, path = export.run(str(folder / "model.keras"), str(tmp_path / "1"))
    assert path == tmp_path / "1"
    plain = json.loads((path / "assets.extra" / "robustness.json").read_text())
    assert plain["report"] is None
    assert capsys.readouterr().out == f"Written to {path}: signatures logits, serving_default\n"


@pytest.mark.exhaustive
def test_verify(tmp_path_factory, capsys):
    """Trains, exports, and attacks the served model."""
    folder = tmp_path_factory.mktemp("verify")
    data = datasets.load("digits")
    keras.utils.set_random_seed(1)
    network = models.small_cnn(data.input_shape, data.num_classes)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(*data.train, epochs=2, verbose=0)
    network.save(folder / "model.keras")
    threat_model = kr.Linf(0.05)
    report = kr.evaluate(network, data.test, threat_model, "fgsm", num_examples=30)
    report.save(folder / "report.json")
    command = [f"--model={folder}/model.keras", f"--report={folder}/report.json", "--verify"]
    command += ["--evaluation_steps=5", "--evaluation_restarts=1", "--evaluation_examples=40"]
    done = programs.run("export", f"--output_dir={folder}/models/1", *command)
    assert (done.code, done.stderr) == (0, "")
    replayed, *accuracies, written = done.stdout.splitlines()
    assert written.endswith("signatures logits, predict_bytes, serving_default")
    assert re.match(
        r"Without Keras: 6 of 6 requests have a stored answer and get the same one.* \d.\de-0\d$",
        replayed,
    )
    found = [re.findall(r"([\d.]+)%", line) for line in accuracies if "accuracy" in line]
    assert [len(set(pair)) for pair in found] == [1, 1]
    expected = kr.evaluate(
        network,
        data.test,
        threat_model,
        shared_flags.make_suite(5, 1),
        num_examples=40,
        minimum_norm=None,
        batch_size=32,
    )
    assert float(found[0][0]) == 100.0 * expected.robust_accuracy < 100 * expected.clean_accuracy
    plain = json.loads((folder / "models/1/assets.extra/robustness.json").read_text())
    x, y = data.test
    assert plain["data_fingerprint"] == fingerprint(x[:30], y[:30])


@pytest.mark.exhaustive
def test_another_model_does_not_pass(folder, tmp_path, capsys):
    """A SavedModel of one model, and another, less robust model in memory."""
    guard = kr.layers.InputGuard()
    network, path = export.run(str(folder / "model.keras"), str(tmp_path / "1"), guard=guard)
    x, y = X, network.predict(X, verbose=0).argmax(axis=-1)
    export.check(path, network, (x, y), kr.Linf(0.001), num_examples=5)
    network.set_weights([-weight for weight in network.get_weights()])
    with pytest.raises(ValueError, match="differs under white-box and black-box attacks"):
        export.check(path, network, (x, y), kr.Linf(0.001), num_examples=5)
    assert "100.00% served" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_what_does_not_pass_is_not_published(folder, tmp_path, capsys):
    def verify(path, model):
        assert path.parent == tmp_path / "models"
        model.set_weights([-weight for weight in model.get_weights()])
        y = model.predict(X, verbose=0).argmax(axis=-1)
        export.check(path, model, (X, y), kr.Linf(0.001), num_examples=5)

    with refusals.assert_refused("differs under white-box and black-box attacks", folder=tmp_path):
        export.run(
            str(folder / "model.keras"), str(tmp_path / "models" / "1"), guard=None, verify=verify
        )
    assert list(tmp_path.iterdir()) == []
    assert "Written" not in capsys.readouterr().out


@pytest.mark.exhaustive
def test_random_answers_cannot_be_verified(tmp_path, capsys):
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    kr.layers.RandomizedSmoothing(base, num_samples=5).save(tmp_path / "model.keras")

    def verify(path, model):
        export.check(path, model, (X, np.zeros(5)), kr.Linf(0.1))

    with refusals.assert_refused("give the RandomizedSmoothing a seed.*Received: 4 req"):
        export.run(str(tmp_path / "model.keras"), str(tmp_path / "1"), guard=None, verify=verify)
    assert "2 of 6 requests have a stored answer" in capsys.readouterr().out


def test_a_name_that_is_not_a_number_prints_a_note(folder, tmp_path, capsys):
    with pytest.warns(UserWarning, match="Without a report the range of valid inputs is unknown"):
        export.run(str(folder / "model.keras"), str(tmp_path / "final"))
    assert "only finds versions whose name is a number, not 'final'" in capsys.readouterr().out
