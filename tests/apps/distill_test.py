import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from apps import distill
from apps import models
from keras_robust import datasets
from tests.support import programs

SETTINGS = {
    "dataset": "digits",
    "bounds": None,
    "model": "small_cnn",
    "method": "rslad",
    "teacher": None,
    "temperature": None,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "seed": 0,
    "threat_model": "linf",
    "epsilon": None,
    "num_steps": 1,
    "warmup": "20%",
    "attack_dtype": None,
    "evaluation_steps": 1,
    "evaluation_restarts": 1,
    "evaluation_examples": 20,
}
ERROR_CASES = [
    ("--method=distill", "flag --method=distill: value should be one of <ard|defensive|rslad>"),
    ("--method=rslad --temperature=3", "Received: --method=rslad --temperature=3.0"),
    ("--method=defensive --num_steps=3", "Received: --method=defensive --num_steps=3"),
    ("--method=defensive --warmup=soon", "Argument `warmup` must be a percentage of the training"),
    ("--temperature=0", "flag --temperature=0"),
    ("--teacher={folder}/missing.keras", "Received: --teacher={folder}/missing.keras"),
    ("--teacher={folder}/other.keras", "The data set digits needs a model from (None, 8, 8, 1)"),
    ("--method=defensive --model={folder}/soft.keras", "Received: --model={folder}/soft.keras"),
    ("--checkpoint_dir={folder}/old --seed=1", "{folder}/old, where --epochs was 2, --evaluation_"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Runs a training like a user does. Returns the result and the output folder."""
    folder = tmp_path_factory.mktemp("distill") / "run"
    result = programs.run(
        "distill",
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
    """Returns the output of the program for every wrong command line and for --help."""
    folder = tmp_path_factory.mktemp("failures")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(folder / "other.keras")
    network = models.small_cnn((8, 8, 1), 10)
    keras.Sequential([network, keras.layers.Softmax()]).save(folder / "soft.keras")
    (folder / "old").mkdir()
    (folder / "old" / "settings.json").write_text(json.dumps(SETTINGS))
    commands = [
        [f"--output_dir={folder}/run", "--epochs=1", *arguments.format(folder=folder).split()]
        for arguments, _ in ERROR_CASES
    ]
    return folder, programs.run_all("distill", [*commands, ["--help"]])


@pytest.mark.exhaustive
def test_a_training_ends_well_and_in_silence(done):
    result, _ = done
    assert (result.code, result.stderr) == (0, "")


@pytest.mark.exhaustive
def test_a_training_prints_what_it_does(done):
    result, folder = done
    lines = result.stdout.splitlines()
    order = [
        lines.index("Training the teacher model:"),
        lines.index("Training the student model:"),
        lines.index("Attacking the teacher model:"),
        lines.index("Attacking the student model:"),
    ]
    assert order == sorted(order)
    assert all("val_adv_accuracy" in lines[index + 1] for index in order[:2])
    written = "model.keras, saved_model/1, report.json, report_teacher.json, examples.png, "
    assert lines[-1] == f"Written to {folder}: {written}examples_teacher.png"


@pytest.mark.exhaustive
def test_the_report_is_about_the_student_that_was_saved(done):
    _, folder = done
    model = keras.models.load_model(folder / "model.keras")
    x, y = (part[:50] for part in datasets.load("digits").test)
    report = kr.RobustnessReport.load(folder / "report.json")
    accuracy = np.mean(model.predict(x, verbose=0).argmax(axis=-1) == y)
    assert report.clean_accuracy == pytest.approx(accuracy)
    assert report != kr.RobustnessReport.load(folder / "report_teacher.json")
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize("index", range(len(ERROR_CASES)), ids=[case[0] for case in ERROR_CASES])
def test_failures_are_one_line_and_come_before_the_training(failures, index):
    folder, results = failures
    result, message = results[index], ERROR_CASES[index][1].format(folder=folder)
    programs.assert_one_line(result, message)
    assert "Training the" not in result.stdout


def test_help(failures):
    result = failures[1][-1]
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("Distills a teacher into a student")
    for name in (*SETTINGS, "data_dir", "checkpoint_dir", "output_dir"):
        assert f"--{name}" in result.stdout.replace("--[no]", "--")


@pytest.fixture
def dataset(monkeypatch):
    """The first digits only, in the place of every data set."""
    small = programs.few_digits()
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: small)
    return small


@pytest.fixture
def callbacks(monkeypatch):
    """The callbacks of each training, which is left out."""
    found = {}
    monkeypatch.setattr(
        distill.training,
        "fit",
        lambda name, model, dataset, settings, callbacks, checkpoint_dir: found.update(
            {name: (model, callbacks, checkpoint_dir)}
        ),
    )
    monkeypatch.setattr(distill.training, "attack", lambda *arguments: {})
    monkeypatch.setattr(distill.training, "write", lambda *arguments: None)
    return found


def _run(tmp_path, **settings):
    return distill.run({**SETTINGS, **settings}, output_dir=str(tmp_path / "out"))


def test_defensive_distillation_uses_the_temperature_in_both_trainings(
    dataset, callbacks, tmp_path
):
    _run(tmp_path, method="defensive", temperature=50.0, num_steps=None, seed=3)
    teacher, first, _ = callbacks["teacher"]
    assert (teacher.loss.temperature, first) == (50.0, [])
    student, (adv_train,), _ = callbacks["student"]
    assert type(student.loss) is keras.losses.SparseCategoricalCrossentropy
    assert type(adv_train.objective) is kr.objectives.DefensiveDistillation
    assert (adv_train.objective.teacher, adv_train.objective.temperature) == (teacher, 50.0)
    assert adv_train.seed == 3


@pytest.mark.parametrize(("temperature", "expected"), [(None, 30.0), (4.0, 4.0)])
def test_ard_has_a_teacher_that_adversarial_training_makes(
    dataset, callbacks, tmp_path, temperature, expected
):
    _run(tmp_path, method="ard", temperature=temperature, num_steps=3, warmup="7", epsilon="1/8")
    teacher, (first, _), _ = callbacks["teacher"]
    assert type(first.objective) is kr.objectives.Adversarial
    _, (adv_train, validation), _ = callbacks["student"]
    assert type(adv_train.objective) is kr.objectives.ARD
    assert (adv_train.objective.teacher, adv_train.objective.temperature) == (teacher, expected)
    for one in (first, adv_train):
        assert (one.attack.num_steps, one.warmup, one.threat_model.epsilon) == (3, 7, 0.125)
    assert validation.threat_model is adv_train.threat_model


def test_a_given_teacher_is_not_trained(dataset, callbacks, tmp_path):
    keras.utils.set_random_seed(5)
    given = keras.Sequential([models.small_cnn((8, 8, 1), 10), keras.layers.Softmax()])
    given.save(tmp_path / "teacher.keras")
    _run(tmp_path, method="rslad", teacher=str(tmp_path / "teacher.keras"))
    assert list(callbacks) == ["student"]
    teacher = callbacks["student"][1][0].objective.teacher
    for one, other in zip(teacher.get_weights(), given.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.exhaustive
def test_the_same_command_goes_on_and_gives_the_same_numbers(dataset, tmp_path):
    settings = {**SETTINGS, "method": "defensive", "num_steps": None, "epochs": 1}
    folders = {"output_dir": str(tmp_path / "out"), "checkpoint_dir": str(tmp_path / "old")}
    first, again = (distill.run(settings, **folders) for _ in range(2))
    assert list(first) == ["teacher", "student"]
    for name in first:
        np.testing.assert_array_equal(first[name].logits, again[name].logits)
        np.testing.assert_array_equal(first[name].adv_logits, again[name].adv_logits)
    assert np.any(first["student"].logits != first["teacher"].logits)
    names = sorted(item.name for item in (tmp_path / "old").iterdir())
    assert names == ["settings.json", "student", "teacher"]
    assert json.loads((tmp_path / "old" / "settings.json").read_text()) == settings
