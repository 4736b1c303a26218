import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.export import manifest
from keras_robust.export import warmup_log
from tests.support import gradients
from tests.support import refusals
from tests.support import several_inputs
from tests.support import small_models

NAMES = ["ant", "bee", "cat"]
BATCH_SIZES = (1, 3, 8)
X = np.random.default_rng(2).uniform(size=(8, *small_models.IMAGE)).astype("float32")

# Loads every SavedModel where neither Keras nor this package can be imported.
_CLIENT = """
import pathlib, sys
sys.modules["keras"] = sys.modules["keras_robust"] = None
import numpy as np
import tensorflow as tf

folder, found = pathlib.Path(sys.argv[1]), {}
x = np.load(folder / "x.npy")
for path in sorted(folder.glob("*/1")):
    model = tf.saved_model.load(str(path))
    for size in (1, 3, 8):
        for signature in ("serving_default", "logits"):
            batch = {"the_images": tf.constant(x[:size])}
            for name, value in model.signatures[signature](**batch).items():
                found[f"{path.parent.name}/{size}/{signature}/{name}"] = value.numpy()
    batch = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(batch)
        total = tf.reduce_sum(model.signatures["logits"](the_images=batch)["logits"][:, -1])
    found[f"{path.parent.name}/gradient"] = tape.gradient(total, batch).numpy()
np.savez(folder / "found.npz", **found)
"""


def _model(classes=3, activation=None, loss=None):
    """A network with BatchNorm and Dropout, whose input has a name that TensorFlow refuses."""
    trunk = small_models.convolution()
    inputs = keras.Input(small_models.IMAGE, name="the images")
    x = keras.Sequential(trunk.layers[:-1])(inputs)
    outputs = keras.layers.Dense(classes, activation=activation)(x)
    model = keras.Model(inputs, outputs)
    if loss is not None:
        model.compile("adam", loss)
    return model


@pytest.fixture(scope="module")
def networks():
    from_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {
        "logits": _model(loss=from_logits),
        "softmax": _model(activation="softmax", loss="sparse_categorical_crossentropy"),
        "sigmoid": _model(1, "sigmoid", "binary_crossentropy"),
        "plain": _model(),
    }


@pytest.fixture(scope="module")
def served(networks, tmp_path_factory):
    """Outputs of the SavedModels in another process."""
    folder = tmp_path_factory.mktemp("served")
    np.save(folder / "x.npy", X)
    for name, network in networks.items():
        kr.export_saved_model(network, folder / name / "1", guard=kr.layers.InputGuard())
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", _CLIENT, str(folder)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A SavedModel with the names of its classes and a report."""
    model = small_models.simple(name="features")
    model.set_weights([np.eye(4, 3), np.zeros(3)])
    x = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
    report = kr.evaluate(model, (x, np.array([0, 1, 2, 0, 1])), kr.Linf(0.1), "fgsm")
    path = tmp_path_factory.mktemp("named") / "1"
    kr.export_saved_model(model, str(path), report=report, label_names=NAMES)
    return model, x, report, path


def _probabilities(name, network):
    outputs = network.predict(X, verbose=0)
    if name == "sigmoid":
        return np.concatenate([1.0 - outputs, outputs], axis=-1)
    if name == "softmax":
        return outputs
    exponentials = np.exp(outputs.astype("float64"))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["logits", "softmax", "sigmoid", "plain"])
@pytest.mark.parametrize("size", BATCH_SIZES)
def test_another_process_gets_the_probabilities_of_keras(networks, served, name, size):
    expected = _probabilities(name, networks[name])[:size]
    found = served[f"{name}/{size}/serving_default/probabilities"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    label = served[f"{name}/{size}/serving_default/label"]
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, expected.argmax(axis=-1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["logits", "softmax", "sigmoid", "plain"])
def test_another_process_gets_logits_and_their_gradient(networks, served, name):
    logits = served[f"{name}/8/logits/logits"]
    exponentials = np.exp(logits.astype("float64"))
    np.testing.assert_allclose(
        exponentials / exponentials.sum(axis=-1, keepdims=True),
        _probabilities(name, networks[name]),
        atol=1e-5,
    )
    layers = networks[name].layers

    def last_score(x):
        scores = keras.ops.matmul(layers[1](x), layers[2].kernel) + layers[2].bias
        return scores[:, -1]

    _, expected = gradients.of(last_score, X)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(served[f"{name}/gradient"], expected, atol=1e-5)


def test_signatures(named):
    _, _, _, path = named
    loaded = tf.saved_model.load(str(path))
    assert sorted(loaded.signatures) == ["logits", "serving_default"]
    serving, logits = (loaded.signatures[name] for name in ("serving_default", "logits"))
    expected = tf.TensorSpec((None, 4), tf.float32, name="features")
    assert serving.structured_input_signature[1] == {"features": expected}
    assert logits.structured_input_signature[1] == {"features": expected}
    shapes = {
        key: (spec.shape.as_list(), spec.dtype) for key, spec in serving.structured_outputs.items()
    }
    assert shapes == {
        "probabilities": ([None, 3], tf.float32),
        "label": ([None], tf.int64),
        "label_name": ([None], tf.string),
    }
    assert sorted(logits.structured_outputs) == ["logits"]


def test_label_names(named):
    model, x, _, path = named
    loaded = tf.saved_model.load(str(path))
    found = loaded.signatures["serving_default"](features=tf.constant(x))["label_name"]
    labels = model.predict(x, verbose=0).argmax(axis=-1)
    assert len(set(labels)) > 1
    assert [name.decode() for name in found.numpy()] == [NAMES[label] for label in labels]


def test_the_report_is_exported(named):
    _, _, report, path = named
    plain = json.loads((path / "assets.extra" / "robustness.json").read_text())
    assert kr.RobustnessReport.from_dict(plain["report"]) == report
    assert plain["threat_model"] == report.to_dict()["threat_model"]
    assert plain["data_fingerprint"]["num_examples"] == 5
    guard = plain["inputs"]["features"]["guard"]
    assert (guard["bounds"], guard["outside"]) == ([0.0, 1.0], "reject")
    model_card = (path / "assets.extra" / "MODEL_CARD.md").read_text()
    assert "Linf, epsilon 0.1" in model_card and "- 2: cat" in model_card


def test_the_guard_stands_in_front(named):
    _, x, _, path = named
    loaded = tf.saved_model.load(str(path))
    for name in ("serving_default", "logits"):
        for wrong in (1e30, -0.01, np.nan, np.inf):
            bad = x.copy()
            bad[3, 1] = wrong
            message, error = r"finite values within \[0.0, 1.0\]", tf.errors.InvalidArgumentError
            with refusals.assert_refused(message, error=error):
                loaded.signatures[name](features=tf.constant(bad))


def test_the_guard_argument_is_used(tmp_path):
    model = small_models.simple(name="x")
    guard = kr.layers.InputGuard((-2.0, 2.0), outside="clip", non_finite="replace")
    loaded = tf.saved_model.load(str(kr.export_saved_model(model, tmp_path / "1", guard=guard)))
    x = tf.constant([[-9.0, 1e30, np.nan, 1.5]])
    found = loaded.signatures["logits"](x=x)["logits"]
    np.testing.assert_allclose(found, model(np.array([[-2.0, 2.0, 0.0, 1.5]])), rtol=1e-5)
    loaded = tf.saved_model.load(str(kr.export_saved_model(model, tmp_path / "2", guard=None)))
    x = tf.constant([[-9.0, 1e3, 4.0, 1.5]])
    np.testing.assert_allclose(loaded.signatures["logits"](x=x)["logits"], model(x), rtol=1e-5)


def test_a_servable_folder_has_no_custom_op_and_says_how_to_serve_it(named):
    path = named[-1]
    loaded = tf.saved_model.load(str(path))
    for signature in loaded.signatures.values():
        graph = signature.graph.as_graph_def()
        kinds = {node.op for function in graph.library.function for node in function.node_def}
        assert not {kind for kind in kinds if "PyFunc" in kind}
    text = (path / "assets.extra" / "models.config").read_text()
    assert f'base_path: "{path.parent}"' in text and "versions: 1 " in text
    assert [replayed["requests"] for replayed in [warmup_log.replay(path)]] == [4]


@pytest.mark.exhaustive
def test_several_inputs(tmp_path):
    model = several_inputs.parted_model()
    x = several_inputs.parted(np.random.default_rng(0).uniform(size=(8, 4)).astype("float32"))
    y = np.argmax(model.predict(x, verbose=0), axis=-1)
    report = kr.evaluate(model, (x, y), {"b": kr.Linf(0.1, bounds=(-3, 3))}, "fgsm")
    path = kr.export_saved_model(model, tmp_path / "1", report=report)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    inputs = {name: tf.constant(value) for name, value in x.items()}
    inputs["number"] = tf.cast(inputs["number"], tf.int32)
    np.testing.assert_array_equal(serve(**inputs)["label"], y)
    assert warmup_log.replay(path)["others_equal"]
    inputs["a"] += 1e30
    assert serve(**inputs)["label"].shape == (8,)
    for wrong in ({"a": inputs["a"] * np.nan}, {"b": inputs["b"] + 3.0}):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite values"):
            serve(**{**inputs, **wrong})


@pytest.mark.exhaustive
def test_examples_that_the_guard_rejects_are_refused(tmp_path):
    x, y = np.full((4, 4), 200.0, "float32"), np.zeros(4, "int64")
    message = r"rejects the examples: pass a `guard`.*within \[0.0, 1.0\]"
    with refusals.assert_refused(message, folder=tmp_path, times=2):
        kr.export_saved_model(
            small_models.simple(), tmp_path / "1", data=(x, y), guard=kr.layers.InputGuard()
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_examples_may_come_in_batches(tmp_path):
    x, y = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32"), np.arange(5) % 3
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    path = kr.export_saved_model(
        small_models.simple(), tmp_path / "1", data=batches, guard=kr.layers.InputGuard()
    )
    found = json.loads((path / "assets.extra" / "robustness.json").read_text())
    assert found["data_fingerprint"] == manifest.fingerprint(x, y)


def test_the_folder_is_complete_readable_and_alone(named):
    path = named[-1]
    names = sorted(item.name for item in path.iterdir())
    assert names == ["assets", "assets.extra", "fingerprint.pb", "saved_model.pb", "variables"]
    assert [item.name for item in path.parent.iterdir()] == ["1"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_returns_the_path_and_makes_its_parents(tmp_path):
    wanted = tmp_path / "models" / "digits" / "3"
    assert (
        kr.export_saved_model(small_models.simple(), str(wanted), guard=kr.layers.InputGuard())
        == wanted
    )
    assert wanted.is_dir()


def test_reduced_precision_is_served_as_float32(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,), name="x"), keras.layers.Dense(3, dtype="mixed_bfloat16")]
    )
    path = kr.export_saved_model(model, tmp_path / "1", guard=kr.layers.InputGuard())
    x = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
    loaded = tf.saved_model.load(str(path))
    found = loaded.signatures["serving_default"](x=tf.constant(x))["probabilities"]
    assert found.dtype == tf.float32
    expected = tf.nn.softmax(tf.cast(model(x), tf.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_models_with_a_loss_of_their_own(tmp_path):
    model = small_models.simple(name="x")
    model.compile("sgd", kr.losses.Margin())
    loaded = tf.saved_model.load(
        str(kr.export_saved_model(model, tmp_path / "1", guard=kr.layers.InputGuard()))
    )
    x = np.ones((2, 4), "float32")
    found = loaded.signatures["logits"](x=tf.constant(x))["logits"]
    np.testing.assert_allclose(found, model(x), rtol=1e-6)


def test_the_model_is_left_as_it_was(tmp_path):
    model = _model(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    kr.export_saved_model(model, tmp_path / "1", guard=kr.layers.InputGuard())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    history = model.fit(X, np.zeros(8, "int64"), verbose=0)
    assert sorted(history.history) == ["loss"]


def test_a_path_without_a_folder(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path / "digits")
    path = kr.export_saved_model(small_models.simple(), "1", guard=kr.layers.InputGuard())
    assert path == tmp_path / "digits" / "1"
    assert 'name: "digits"' in (path / "assets.extra" / "models.config").read_text()


@pytest.mark.exhaustive
def test_noise_in_front_of_the_guard_is_refused(tmp_path):
    within = keras.Sequential([keras.Input((4,)), kr.layers.InputGuard(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="put the guard in front of the smoothing"):
        kr.layers.RandomizedSmoothing(within)
    smoothed = kr.layers.RandomizedSmoothing(small_models.simple(name="x"), num_samples=5)
    guarded = keras.Sequential([keras.Input((4,)), kr.layers.InputGuard(), smoothed])
    loaded = tf.saved_model.load(str(kr.export_saved_model(guarded, tmp_path / "1")))
    assert sorted(loaded.signatures) == ["logits", "serving_default"]


def test_a_byte_model_is_not_scaled_to_unit_bounds(tmp_path):
    pixels = keras.Input((2, 2, 3), name="x")
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(3)(hidden))
    with pytest.warns(UserWarning, match="Without a report the range of valid inputs is unknown"):
        path = kr.export_saved_model(model, tmp_path / "1")
    serve = tf.saved_model.load(str(path)).signatures["logits"]
    x = np.random.default_rng(0).uniform(0, 255, (4, 2, 2, 3)).astype("float32")
    np.testing.assert_allclose(serve(x=tf.constant(x))["logits"], model(x), rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite values"):
        serve(x=tf.constant(x * np.nan))
    assert "no bounds | reject" in (path / "assets.extra" / "MODEL_CARD.md").read_text()
