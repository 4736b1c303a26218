import json

import keras
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from apps import models
from apps import train
from keras_robust import datasets
from tests.support import programs

SETTINGS = {
    "dataset": "digits",
    "bounds": None,
    "model": "small_cnn",
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "seed": 0,
    "threat_model": "linf",
    "epsilon": None,
    "attack": None,
    "num_steps": 1,
    "objective": "adversarial",
    "objective_arguments": [],
    "clean_epochs": 0,
    "warmup": "20%",
    "attack_dtype": None,
    "evaluation_steps": 1,
    "evaluation_restarts": 1,
    "evaluation_examples": 20,
}
ERROR_CASES = [
    ("--epochs=0", "flag --epochs=0: "),
    ("--batch_size=many", "flag --batch_size=many: "),
    ("--attack=random_start_fgms", "did you mean random_start_fgsm?"),
    ("--attack=auto_attack", "flag --attack=auto_attack: value should be one of <apgd|bim|"),
    ("--objective=pgd", "flag --objective=pgd: value should be one of <adversarial|"),
    ("--warmup=soon", "Argument `warmup` must be a percentage of the training"),
    ("--epsilon=8", "Argument `epsilon` is as large as the box of valid inputs"),
    ("--attack=fgsm --num_steps=3", "Received: --attack=fgsm --num_steps=3"),
    ("--dataset=no_such_images", "no_such_images"),
    ("--model={folder}/missing.keras", "Received: --model={folder}/missing.keras"),
    ("--model={folder}/file", "The file {folder}/file is not a readable Keras model: "),
    ("--model={folder}/other.keras", "The data set digits needs a model from (None, 8, 8, 1)"),
    ("--output_dir={folder}/file/runs", "{folder}/file"),
    ("--checkpoint_dir={folder}/file/checkpoints", "{folder}/file"),
    ("--checkpoint_dir={folder}/old --seed=1", "{folder}/old, where --epochs was 2, --evaluation_"),
    ("more", "Expected flags only, --name=value. Received: more"),
]


@pytest.fixture(scope="module")
def dataset():
    return programs.few_digits()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Runs a training like a user does. Returns the result and the output folder."""
    folder = tmp_path_factory.mktemp("train") / "new" / "run"
    result = programs.run(
        "train",
        "--epochs=1",
        "--num_steps=1",
        "--evaluation_steps=2",
        "--evaluation_restarts=1",
        "--evaluation_examples=50",
        f"--output_dir={folder}",
    )
    return result, folder


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Returns the output of the program for every wrong command line."""
    folder = tmp_path_factory.mktemp("failures")
    (folder / "file").write_text("nothing")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(folder / "other.keras")
    (folder / "old").mkdir()
    (folder / "old" / "settings.json").write_text(json.dumps(SETTINGS))
    commands = [
        [f"--output_dir={folder}/run", "--epochs=1", *arguments.format(folder=folder).split()]
        for arguments, _ in ERROR_CASES
    ]
    results = programs.run_all("train", [*commands, ["--help"]])
    return folder, results


def test_a_training_ends_well_and_in_silence(done):
    result, _ = done
    assert (result.code, result.stderr) == (0, "")


def test_a_training_prints_what_it_does(done):
    result, folder = done
    lines = result.stdout.splitlines()
    order = [
        lines.index("Training the undefended model:"),
        lines.index("Training the hardened model:"),
        lines.index("Attacking the undefended model:"),
        lines.index("Attacking the hardened model:"),
    ]
    assert order == sorted(order)
    undefended, hardened = lines[order[0] + 1], lines[order[1] + 1]
    assert "val_accuracy" in undefended
    assert "adv_accuracy" not in undefended
    assert "val_adv_accuracy" in hardened
    assert "Linf, epsilon 0.15 of 0 to 1 (15%), 50 examples" in result.stdout
    written = "model.keras, saved_model/1, report.json, report_undefended.json, examples.png, "
    written += "examples_undefended.png"
    assert lines[-1] == f"Written to {folder}: {written}"


def test_a_training_writes_what_it_says(done):
    _, folder = done
    expected = {"model.keras", "saved_model", "report.json", "report_undefended.json"}
    assert {item.name for item in folder.iterdir()} == {
        *expected,
        "examples.png",
        "examples_undefended.png",
    }
    assert [item.name for item in (folder / "saved_model").iterdir()] == ["1"]
    assert matplotlib.image.imread(folder / "examples.png").shape[:2] == (5 * 315 + 75, 900)


def test_reports_are_about_the_saved_model(done):
    result, folder = done
    model = keras.models.load_model(folder / "model.keras")
    x, y = (part[:50] for part in datasets.load("digits").test)
    report = kr.RobustnessReport.load(folder / "report.json")
    accuracy = np.mean(model.predict(x, verbose=0).argmax(axis=-1) == y)
    assert report.clean_accuracy == pytest.approx(accuracy)
    assert report.num_examples == 50
    strengths = [(a.settings["num_steps"], a.settings["num_restarts"]) for a in report.attacks]
    assert strengths == [(2, 1), (2, 1)]
    undefended = kr.RobustnessReport.load(folder / "report_undefended.json")
    assert undefended.clean_accuracy > report.clean_accuracy
    row = next(line for line in result.stdout.splitlines() if "robust (worst case)" in line)
    shares = [f"{one.robust_accuracy:.1%}" for one in (undefended, report)]
    assert [cell.strip() for cell in row.split("│")[2:4]] == shares


def test_the_saved_model_serves_the_saved_model(done):
    _, folder = done
    model = keras.models.load_model(folder / "model.keras")
    x = datasets.load("digits").test[0][:5]
    loaded = tf.saved_model.load(str(folder / "saved_model" / "1"))
    found = loaded.signatures["serving_default"](images=tf.constant(x))
    np.testing.assert_allclose(
        found["probabilities"], keras.ops.softmax(model.predict(x, verbose=0)), atol=1e-5
    )
    names = [str(label).encode() for label in found["label"].numpy()]
    assert found["label_name"].numpy().tolist() == names
    written = folder / "saved_model" / "1" / "assets.extra" / "robustness.json"
    plain = json.loads(written.read_text())
    report = kr.RobustnessReport.load(folder / "report.json")
    assert kr.RobustnessReport.from_dict(plain["report"]) == report
    assert plain["data_fingerprint"]["num_examples"] == report.num_examples


@pytest.mark.parametrize("index", range(len(ERROR_CASES)), ids=[case[0] for case in ERROR_CASES])
def test_failures_are_one_line(failures, index):
    folder, results = failures
    result, message = results[index], ERROR_CASES[index][1].format(folder=folder)
    programs.assert_one_line(result, message)
    assert "Training the" not in result.stdout or "--model" in ERROR_CASES[index][0]


def test_failures_leave_no_results(failures):
    folder, _ = failures
    assert (folder / "file").read_text() == "nothing"
    assert sorted(item.name for item in folder.iterdir()) == ["file", "old", "other.keras", "run"]
    assert list((folder / "run").iterdir()) == []
    assert json.loads((folder / "old" / "settings.json").read_text()) == SETTINGS


def test_help(failures):
    result = failures[1][-1]
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("Trains a classifier against adversarial examples")
    for name in (*SETTINGS, "data_dir", "checkpoint_dir", "output_dir"):
        assert f"--{name}" in result.stdout.replace("--[no]", "--")


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Reports of two runs with the same settings and checkpoints, and their folder."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, data_dir: dataset)
        reports = [
            train.run(SETTINGS, output_dir=str(folder / "out"), checkpoint_dir=str(folder / "old"))
            for _ in range(2)
        ]
    return reports, folder


@pytest.mark.exhaustive
def test_the_same_command_gives_the_same_numbers(runs):
    (first, again), _ = runs
    assert list(first) == ["undefended", "hardened"]
    for name in first:
        np.testing.assert_array_equal(first[name].logits, again[name].logits)
        np.testing.assert_array_equal(first[name].adv_logits, again[name].adv_logits)


@pytest.mark.exhaustive
def test_every_run_is_a_version_of_its_own(runs):
    _, folder = runs
    versions = sorted(item.name for item in (folder / "out" / "saved_model").iterdir())
    assert versions == ["1", "2"]


@pytest.mark.exhaustive
def test_the_checkpoints_know_their_settings(runs):
    _, folder = runs
    assert json.loads((folder / "old" / "settings.json").read_text()) == SETTINGS
    names = sorted(item.name for item in (folder / "old").iterdir())
    assert names == ["hardened", "settings.json", "undefended"]


@pytest.mark.exhaustive
def test_a_file_of_the_user_is_hardened(dataset, tmp_path, monkeypatch):
    model = models.small_cnn(dataset.input_shape, 10)
    model = keras.Sequential([model, keras.layers.Softmax()])
    model.save(tmp_path / "mine.keras")
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: dataset)
    settings = {**SETTINGS, "model": str(tmp_path / "mine.keras"), "objective": "trades"}
    train.run({**settings, "epochs": 1}, output_dir=str(tmp_path / "out"))
    hardened = keras.models.load_model(tmp_path / "out" / "model.keras")
    assert hardened.layers[-1].name == model.layers[-1].name
    sums = hardened.predict(dataset.test[0], verbose=0).sum(axis=-1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_settings_reach_the_defence(dataset):
    settings = {**SETTINGS, "attack": "bim", "num_steps": 4, "objective": "mixed", "warmup": "30"}
    settings["attack_dtype"] = "bfloat16"
    callback, validation = train._defence({**settings, "seed": 9}, dataset, kr.Linf(0.1))
    assert isinstance(callback.attack, kr.attacks.BIM)
    assert callback.attack.num_steps == 4
    assert isinstance(callback.objective, kr.objectives.Mixed)
    assert (callback.warmup, callback.seed, callback.attack_dtype) == (30, 9, "bfloat16")
    assert callback.threat_model.epsilon == validation.threat_model.epsilon == 0.1
    np.testing.assert_array_equal(validation.y, dataset.validation[1])
    percentage, _ = train._defence({**settings, "warmup": "30%"}, dataset, kr.Linf(0.1))
    assert percentage.warmup == "30%"
