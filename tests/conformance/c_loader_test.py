"""What is exported runs without Python: a C program on the libraries in TensorFlow's wheel."""

import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import keras_robust as kr
from tests.support import tiers

pytestmark = pytest.mark.exhaustive

SOURCE = pathlib.Path(__file__).parents[1] / "support" / "serve.c"
X = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype("float32")
INVALID_ARGUMENT = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("There is no C compiler here: neither gcc nor cc.")
    folder = pathlib.Path(tf.sysconfig.get_lib())
    libraries = [path for name in ("cc", "framework") for path in _libraries(folder, name)]
    if len(libraries) < 2:
        pytest.skip(f"This TensorFlow has no libraries to link with in {folder}.")
    path = tmp_path_factory.mktemp("c") / "serve"
    include = f"-I{tf.sysconfig.get_include()}"
    command = [compiler, "-o", path, include, SOURCE, *libraries, f"-Wl,-rpath,{folder}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(X.shape[1:], name="images"),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    return model, kr.export_saved_model(
        model, tmp_path_factory.mktemp("models") / "1", guard=kr.layers.InputGuard()
    )


def _libraries(folder, name):
    return sorted(folder.glob(f"libtensorflow_{name}.so*"))[:1]


def run(program, path, signature, output, x):
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    found = graph.meta_graphs[0].signature_def[signature]
    place = found.outputs[output].name.split(":")
    arguments = [found.inputs["images"].name.split(":")[0], *place, *x.shape]
    command = [str(item) for item in (program, path, *arguments)]
    return subprocess.run(command, input=x.tobytes(), capture_output=True)


@pytest.mark.parametrize("size", [1, 5])
def test_predictions(program, exported, size):
    model, path = exported
    logits = model.predict(X[:size], verbose=0)
    expected = {"logits": logits, "serving_default": keras.ops.softmax(logits)}
    for signature, output in (("serving_default", "probabilities"), ("logits", "logits")):
        done = run(program, path, signature, output, X[:size])
        assert done.returncode == 0, done.stderr.decode()
        found = np.array(done.stdout.split(), "float32").reshape(size, 3)
        np.testing.assert_allclose(found, expected[signature], atol=1e-5)


@tiers.parametrize("wrong", [np.nan, 1e30, -0.1])
def test_the_guard_holds_there_too(program, exported, wrong):
    x = X.copy()
    x[2, 1, 1] = wrong
    done = run(program, exported[1], "serving_default", "probabilities", x)
    assert (done.returncode, len(done.stdout)) == (INVALID_ARGUMENT, 0)
    assert b"Expected finite values within [0.0, 1.0]" in done.stderr
