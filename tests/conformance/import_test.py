"""`import keras_robust` costs little more than `import keras`, and leaves no files."""

import pathlib
import subprocess
import sys

import keras
import pytest

PROGRAM = """
import sys
import keras
before = set(sys.modules)
import keras_robust
print(" ".join(sorted(name for name in set(sys.modules) - before if "." not in name)))
"""
# What a data set, a picture or a server needs, and nobody else.
HEAVY = {"tensorflow_datasets", "matplotlib", "sklearn", "PIL", "pandas", "kserve", "onnx"}


def _run(program, home):
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["KERAS_BACKEND"] = keras.backend.backend()
    root = str(pathlib.Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout, {str(path.relative_to(home)) for path in home.rglob("*")}


@pytest.mark.exhaustive
def test_no_heavy_library_and_no_file_in_the_home_folder(tmp_path):
    modules, files = _run(PROGRAM, tmp_path / "ours")
    _, files_of_keras = _run("import keras", tmp_path / "keras")
    assert "keras_robust" in modules.split()
    assert not HEAVY & set(modules.split())
    assert files == files_of_keras


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # As if it were not installed.
import keras
import numpy as np
import keras_robust as kr
x = np.random.default_rng(0).uniform(size=(40, 4)).astype("float32")
y = (x[:, 0] > 0.5).astype("int32")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
ball = kr.Linf(0.05)
validation = kr.RobustValidation((x, y), ball)
history = model.fit(x, y, verbose=0, callbacks=[kr.AdvTrain(ball), validation]).history
assert {"adv_accuracy", "val_adv_accuracy"} <= set(history)
x_adv = kr.attacks.PGD()(model, x, y, ball)
report = kr.evaluate(model, (x, y), ball, attacks="pgd")
certificate = kr.certify(model, (x, y), "interval")
assert certificate.certified_accuracy(0.05) <= report.robust_accuracy <= report.clean_accuracy
assert 0.04 < np.abs(x_adv - x).max() < 0.0501
try:
    kr.export_saved_model(model, "never")
except ImportError as error:
    assert "pip install tensorflow" in str(error), error
else:
    raise AssertionError("an export without TensorFlow")
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the other backend is TensorFlow")
def test_jax_needs_no_tensorflow(tmp_path):
    _run(WITHOUT_TENSORFLOW, tmp_path / "home")


@pytest.mark.exhaustive
def test_an_export_is_imported_when_it_is_used(tmp_path):
    program = """
import sys
import keras_robust as kr
assert "keras_robust.export" not in sys.modules
assert kr.export_saved_model is kr.export.export_saved_model
try:
    kr.exports
except AttributeError as error:
    assert "has no attribute 'exports'" in str(error)
else:
    raise AssertionError("an attribute that is not there")
"""
    _run(program, tmp_path / "home")
