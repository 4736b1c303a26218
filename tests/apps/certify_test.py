import sys

import keras
import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr
from apps import certify
from apps import models
from keras_robust import datasets
from tests.support import programs

SMOOTHING = ["--noise_stddev=1/10", "--num_samples=200", "--num_examples=12"]
ERROR_CASES = [
    ("", "flag --model=None: Flag --model must have a value other than None."),
    ("--model={folder}/missing", "Received: --model={folder}/missing"),
    ("--model={folder}/other.keras", "The data set digits needs a model from (None, 8, 8, 1)"),
    ("--model={folder}/model.keras", "`noise_stddev` is required"),
    ("--model={folder}/model.keras --method=magic", "flag --method=magic: "),
    ("--model={folder}/model.keras --method=linear", "whose logits are affine"),
    ("--model={folder}/model.keras --noise_stddev=32/a", "Received: --noise_stddev=32/a"),
    ("--model={folder}/model.keras --method=interval --radii=0,x", "Received: --radii=x"),
    (
        "--model={folder}/model.keras --method=interval --output_dir={folder}/model.keras",
        "File exists",
    ),
    (
        "--model={folder}/model.keras --method=interval --alpha=0.1",
        "Expected only the arguments",
    ),
    ("--model={folder}/model.keras --method=complete", "pass radius=... (--radius)"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("certify")
    dataset = datasets.load("digits")
    network = models.small_cnn(dataset.input_shape, dataset.num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.01), loss)
    noisy = kr.AdvTrain(objective=kr.objectives.GaussianNoise(0.1))
    network.fit(*dataset.train, batch_size=128, epochs=3, verbose=0, callbacks=[noisy])
    network.save(folder / "model.keras")
    kr.layers.RandomizedSmoothing(network, noise_stddev=0.1).save(folder / "smoothed.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(folder / "other.keras")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Returns the output of the program for valid command lines."""
    model = f"--model={folder}/model.keras"
    commands = [
        [model, f"--output_dir={folder}/smoothing", *SMOOTHING, "--seed=3", "--alpha=0.01"],
        [model, "--method=Interval", "--num_examples=5", "--radii=0,1/255"],
        [f"--model={folder}/smoothed.keras", "--num_samples=100", "--num_examples=2"],
        [model, f"--output_dir={folder}/low", *SMOOTHING, "--radius=1/20", "--dtype=bfloat16"],
    ]
    return programs.run_all("certify", commands)


@pytest.fixture(scope="module")
def failures(folder):
    """Returns the output of the program for every wrong command line."""
    commands = [case.format(folder=folder).split() for case, _ in ERROR_CASES]
    return programs.run_all("certify", commands)


@pytest.mark.exhaustive
def test_the_report_is_what_the_library_says(folder, results):
    assert (results[0].code, results[0].stderr) == (0, "")
    found = kr.CertificateReport.load(folder / "smoothing" / "certificate.json")
    network = keras.models.load_model(folder / "model.keras")
    expected = kr.certify(
        network,
        datasets.load("digits").test,
        kr.certification.Smoothing(0.1, num_samples=200, alpha=0.01),
        num_examples=12,
        seed=3,
    )
    assert (found.radii, found.predictions) == (expected.radii, expected.predictions)
    assert found.num_examples == 12
    assert found.average_radius > 0.0


@pytest.mark.exhaustive
def test_one_radius_in_half_precision(folder, results):
    assert (results[3].code, results[3].stderr) == (0, "")
    found = kr.CertificateReport.load(folder / "low" / "certificate.json")
    assert found.method["config"]["dtype"] == "bfloat16"
    assert set(found.radii) == {0.0, 0.05}
    network = keras.models.load_model(folder / "model.keras")
    whole = kr.certification.Smoothing(0.1, num_samples=200, dtype="bfloat16")
    expected = whole.certify(network, datasets.load("digits").test[0][:12])
    np.testing.assert_array_equal(np.equal(found.radii, 0.05), expected.radii >= 0.05)


@pytest.mark.exhaustive
def test_the_radii_that_are_asked_for(folder, results):
    report = kr.certify(
        keras.models.load_model(folder / "model.keras"),
        datasets.load("digits").test,
        "interval",
        num_examples=5,
    )
    rows = [line.split()[1::2] for line in results[1].stdout.splitlines() if "%" in line]
    assert rows[0] == ["0", f"{report.certified_accuracy(0):.1%}"]
    assert rows[1] == ["1/255", f"{report.certified_accuracy(1 / 255):.1%}"]


@pytest.mark.exhaustive
def test_a_smoothed_classifier_knows_its_noise(results):
    assert (results[2].code, results[2].stderr) == (0, "")
    assert "Smoothing, radii in L2, 2 examples" in results[2].stdout


@pytest.mark.exhaustive
def test_files_and_output(folder, results):
    assert results[0].stdout.splitlines()[-1] == f"Written to {folder / 'smoothing'}"
    assert "noise_stddev=0.1, num_samples=200" in results[0].stdout
    found = {item.name for item in (folder / "smoothing").iterdir()}
    assert found == {"certificate.json", "certificate.png"}
    assert matplotlib.image.imread(folder / "smoothing" / "certificate.png").ndim == 3
    assert (results[1].code, results[1].stderr) == (0, "")
    assert "radii in Linf, 5 examples" in results[1].stdout
    assert "Written" not in results[1].stdout


@pytest.mark.parametrize("index", range(len(ERROR_CASES)), ids=[case[0] for case in ERROR_CASES])
def test_failures_are_one_line(folder, failures, index):
    result, message = failures[index], ERROR_CASES[index][1].format(folder=folder)
    programs.assert_one_line(result, message)


def test_help():
    result = programs.run("certify", "--help")
    assert (result.code, result.stderr) == (0, "")
    assert "--noise_stddev" in result.stdout


def test_run_needs_no_matplotlib(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    dataset = datasets.load("digits")
    report = certify.run(
        models.load_keras(str(folder / "model.keras")),
        dataset,
        "interval",
        num_examples=3,
        noise_stddev=None,
        output_dir=str(tmp_path / "out"),
    )
    np.testing.assert_array_equal(report.labels, dataset.test[1][:3])
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["certificate.json"]
    assert "pip install 'keras_robust[plots]'" in capsys.readouterr().out
