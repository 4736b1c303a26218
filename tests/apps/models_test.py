import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from apps import models
from keras_robust import datasets
from tests.support import refusals
from tests.support import tiers

SHAPE = (8, 8, 1)
DATASET = datasets.Dataset(
    name="tiny",
    train=None,
    validation=None,
    test=None,
    num_classes=3,
    input_shape=SHAPE,
    label_names=("a", "b", "c"),
)
X = np.random.default_rng(0).uniform(size=(6, *SHAPE)).astype("float32")
Y = np.array([0, 1, 2, 0, 1, 2])


def _network(*tail, activation=None):
    head = keras.layers.Dense(3, activation=activation)
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), head, *tail])


def _save(network, tmp_path):
    path = tmp_path / "network.keras"
    network.save(path)
    return str(path)


@pytest.mark.parametrize(
    "shape,outputs",
    [
        # Two strides halve 28 twice. On small images only the second stride is 2.
        ((28, 28, 1), [(14, 14, 16), (7, 7, 32), 1568, 100, 10]),
        ((16, 16, 3), [(8, 8, 16), (4, 4, 32), 512, 100, 10]),
        ((8, 8, 1), [(8, 8, 16), (4, 4, 32), 512, 100, 10]),
        ((15, 32, 1), [(15, 32, 16), (8, 16, 32), 4096, 100, 10]),
    ],
)
def test_small_cnn(shape, outputs):
    network = models.small_cnn(shape, 10)
    expected = [tuple(np.atleast_1d(size)) for size in outputs]
    assert [layer.output.shape[1:] for layer in network.layers] == expected
    kernels = [layer.kernel.shape for layer in network.layers if hasattr(layer, "kernel")]
    sizes = [(4, 4, shape[2], 16), (4, 4, 16, 32), (outputs[2], 100), (100, 10)]
    assert [tuple(kernel) for kernel in kernels] == sizes
    assert network.layers[-1].activation is keras.activations.linear
    assert network.loss is None


def test_small_cnn_scales_other_bounds_to_those_of_the_default():
    keras.utils.set_random_seed(0)
    plain = models.small_cnn(SHAPE, 3)
    keras.utils.set_random_seed(0)
    scaled = models.build("small_cnn", DATASET, 0.1, bounds=(-10.0, 40.0))
    expected = plain.predict(X, verbose=0)
    np.testing.assert_allclose(scaled.predict(50.0 * X - 10.0, verbose=0), expected, atol=1e-5)


def test_build_compiles_the_small_network():
    network = models.build("small_cnn", DATASET, 0.25)
    assert isinstance(network.optimizer, keras.optimizers.Adam)
    assert float(network.optimizer.learning_rate) == 0.25
    assert network.loss.get_config()["from_logits"] is True
    assert network.output_shape == (None, 3)


@tiers.parametrize(
    "network,from_logits",
    [
        (_network(), True),
        (_network(activation="softmax"), False),
        (_network(keras.layers.Softmax()), False),
        (_network(keras.layers.Activation("softmax")), False),
        (_network(keras.Sequential([keras.layers.Softmax()])), False),
        (_network(activation="relu"), True),
    ],
)
def test_build_finds_out_what_an_uncompiled_file_returns(tmp_path, network, from_logits):
    found = models.build(_save(network, tmp_path), DATASET, 0.25)
    assert found.loss.get_config()["from_logits"] is from_logits
    np.testing.assert_array_equal(found.predict(X, verbose=0), network.predict(X, verbose=0))


@pytest.mark.parametrize("fitted", [False, True])
def test_build_keeps_the_loss_of_a_compiled_file(tmp_path, fitted):
    network = _network(activation="softmax")
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=2, name="mine")
    network.compile("sgd", loss)
    if fitted:
        network.fit(X, Y, verbose=0)
    found = models.build(_save(network, tmp_path), DATASET, 0.25)
    assert found.loss.get_config() == loss.get_config()
    assert isinstance(found.optimizer, keras.optimizers.Adam)
    assert int(found.optimizer.iterations) == 0


@pytest.mark.exhaustive
@tiers.parametrize("compiled", [False, True])
@tiers.parametrize("tail", [[], [keras.layers.Softmax()]])
def test_a_file_with_a_softmax_is_hardened(tmp_path, compiled, tail):
    network = _network(*tail, activation=None if tail else "softmax")
    if compiled:
        network.compile("sgd", "sparse_categorical_crossentropy")
    found = models.build(_save(network, tmp_path), DATASET, 0.01)
    callback = kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.FGSM(), warmup=0)
    history = found.fit(X, Y, epochs=2, verbose=0, callbacks=[callback]).history
    assert sorted(history) == ["accuracy", "adv_accuracy", "loss"]
    assert history["loss"][1] < history["loss"][0]


def test_build_refuses_a_network_that_does_not_fit(tmp_path):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    message = (
        r"The data set tiny needs a model from \(None, 8, 8, 1\) to \(None, 3\). "
        r"Received: a model from \(None, 4\) to \(None, 2\)"
    )
    with refusals.assert_refused(message):
        models.build(_save(network, tmp_path), DATASET, 0.1)


@pytest.mark.parametrize("shape,classes", [((8, 8, 1), 2), ((8, 8, 3), 3), ((9, 8, 1), 3)])
def test_check_fit(shape, classes):
    network = keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)]
    )
    message = "The data set tiny needs a model from (None, 8, 8, 1) to (None, 3). "
    message += f"Received: a model from {(None, *shape)} to (None, {classes})"
    with refusals.assert_refused(re.escape(message)):
        models.check_fit(network, DATASET)
    models.check_fit(_network(), DATASET)


def test_load_keras_says_what_is_wrong(tmp_path):
    missing = tmp_path / "missing.keras"
    for load, expected in (
        (models.load_keras, "the path of a .keras file"),
        (lambda path: models.build(path, DATASET, 0.1), "'small_cnn' or the path of a .keras file"),
        (models.load_for_attack, "a .keras file or the folder of a SavedModel"),
    ):
        with pytest.raises(ValueError, match=f"^Expected {expected}. Received: --model={missing}$"):
            load(str(missing))
    corrupt = tmp_path / "corrupt.keras"
    corrupt.write_text("nothing")
    with pytest.raises(ValueError, match=f"^The file {corrupt} is not a readable Keras model: .+"):
        models.load_keras(str(corrupt))


@pytest.mark.exhaustive
def test_load_for_attack_reads_both_formats(tmp_path):
    network = _network(activation="softmax")
    network.compile("sgd", "sparse_categorical_crossentropy")
    path = kr.export_saved_model(network, tmp_path / "1", guard=kr.layers.InputGuard())
    from_keras = models.load_for_attack(_save(network, tmp_path))
    served = models.load_for_attack(str(path))
    assert isinstance(from_keras, keras.Model)
    logits = X.reshape(6, -1) @ np.asarray(network.layers[1].kernel)
    np.testing.assert_allclose(served(keras.ops.convert_to_tensor(X)), logits, atol=1e-5)


def test_load_for_attack_refuses_other_folders(tmp_path):
    with pytest.raises(ValueError, match=f"The folder {tmp_path} is not a readable SavedModel"):
        models.load_for_attack(str(tmp_path))
    network = _network()
    network.export(tmp_path / "other", verbose=False)
    message = "the signature 'logits', which keras-robust-export writes. "
    message += r"Received: signatures \['serv"
    with pytest.raises(ValueError, match=message):
        models.load_for_attack(str(tmp_path / "other"))
