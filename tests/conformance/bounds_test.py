"""Every program works for a model that takes other values than 0 to 1."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import datasets
from tests.support import programs

BYTES = ["--bounds=0,255"]
QUICK = ["--evaluation_steps=2", "--evaluation_restarts=1", "--evaluation_examples=40"]
TRAINING = ["--epochs=2", "--num_steps=1", *QUICK]


def _run(name, *arguments):
    result = programs.run(name, *arguments)
    assert (result.code, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds")
    _run("train", *BYTES, "--epsilon=8", *TRAINING, f"--output_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def examples():
    x, y = datasets.load("digits").test
    return 255.0 * x[:40], y[:40]


@pytest.mark.exhaustive
def test_train(folder, examples, tmp_path):
    """The same numbers as in the units of the default, up to rounding."""
    report = kr.RobustnessReport.load(folder / "report.json")
    assert report.threat_model["config"] == {"epsilon": "8", "bounds": [0.0, 255.0]}
    _run("train", "--epsilon=8/255", *TRAINING, f"--output_dir={tmp_path}")
    plain = kr.RobustnessReport.load(tmp_path / "report.json")
    assert report.clean_accuracy == pytest.approx(plain.clean_accuracy, abs=0.05)
    assert report.robust_accuracy == pytest.approx(plain.robust_accuracy, abs=0.05)
    assert report.clean_accuracy > 0.6
    model = keras.models.load_model(folder / "model.keras")
    found = np.mean(model.predict(examples[0], verbose=0).argmax(-1) == examples[1])
    assert report.clean_accuracy == pytest.approx(found)


@pytest.mark.exhaustive
def test_evaluate(folder, examples):
    command = [f"--model={folder}/model.keras", "--attacks=pgd", *QUICK, *BYTES]
    _run("evaluate", *command, "--epsilon=8", f"--output_dir={folder}/again")
    found = kr.RobustnessReport.load(folder / "again" / "report.json")
    model = keras.models.load_model(folder / "model.keras")
    suite = [kr.attacks.PGD(num_steps=2, loss=loss) for loss in ("cross_entropy", "margin")]
    expected = kr.evaluate(model, examples, kr.Linf(8, bounds=(0, 255)), suite)
    assert found.robust_accuracy == expected.robust_accuracy
    assert found.median_distance == pytest.approx(expected.median_distance, rel=0.01)
    assert 2.0 < found.median_distance < 128.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["interval", "smoothing"])
def test_certify(folder, examples, method):
    options = {"interval": {}, "smoothing": {"noise_stddev": 10.0, "num_samples": 200}}[method]
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [f"--model={folder}/model.keras", f"--method={method}", "--num_examples=5"]
    _run("certify", *command, *flags, *BYTES, f"--output_dir={folder}/{method}")
    found = kr.CertificateReport.load(folder / method / "certificate.json")
    if method == "interval":
        options = {"bounds": (0, 255)}
    model = keras.models.load_model(folder / "model.keras")
    expected = kr.certify(model, examples, method, num_examples=5, **options)
    assert found.radii == expected.radii
    assert found.average_radius > 0.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("told", ["report", "bounds"])
def test_export(folder, examples, told):
    flags = {"report": [f"--report={folder}/report.json"], "bounds": [*BYTES, "--epsilon=8"]}[told]
    path = folder / "served" / told
    command = [f"--model={folder}/model.keras", f"--output_dir={path}", "--verify"]
    _run("export", *command, *flags, *QUICK)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    model = keras.models.load_model(folder / "model.keras")
    x = examples[0].astype("float32")
    expected = keras.ops.softmax(model.predict(x, verbose=0))
    found = serve(images=tf.constant(x))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    manifest = json.loads((path / "assets.extra" / "robustness.json").read_text())
    assert [one["guard"]["bounds"] for one in manifest["inputs"].values()] == [[0.0, 255.0]]


@pytest.mark.exhaustive
def test_distill(folder):
    command = [f"--teacher={folder}/model.keras", f"--output_dir={folder}/student"]
    _run("distill", *BYTES, "--epsilon=8", *TRAINING, *command)
    report = kr.RobustnessReport.load(folder / "student" / "report.json")
    assert report.threat_model["config"] == {"epsilon": "8", "bounds": [0.0, 255.0]}
    assert report.clean_accuracy > 0.5
