import socket
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_robust import datasets
from keras_robust.datasets import tfds as tfds_module
from tests.support import refusals
from tests.support import tiers

_NUM_TRAIN = 25
_NUM_TEST = 7
_FIRST_TEST_ID = 100


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images whose every pixel is the number of the example; the label is that number modulo 3."""

    VERSION = tfds.core.Version("1.0.0")
    image = tfds.features.Image(shape=(2, 3, 1))
    label = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
    supervised_keys = ("image", "label")
    ids = {
        "train": range(_NUM_TRAIN),
        "test": range(_FIRST_TEST_ID, _FIRST_TEST_ID + _NUM_TEST),
    }

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image": self.image, "label": self.label}),
            supervised_keys=self.supervised_keys,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(ids) for split, ids in self.ids.items()}

    def _generate_examples(self, ids):
        for number in ids:
            yield (
                number,
                {
                    "image": np.full(self.image.shape, number, "uint8"),
                    "label": number % 3,
                },
            )


class TinyImages(_Builder):
    pass


class TinyWithoutTest(_Builder):
    ids = {"train": range(5), "validation": range(5)}


class TinyWithoutKeys(_Builder):
    supervised_keys = None


class TinyOfNumbers(_Builder):
    label = tfds.features.Scalar(np.int64)


class TinyOfAllSizes(_Builder):
    image = tfds.features.Image(shape=(None, None, 3))


class TinyOf16Bits(_Builder):
    image = tfds.features.Image(shape=(2, 3, 1), dtype=np.uint16, encoding_format="png")


class TinyBroken(_Builder):
    def _generate_examples(self, ids):
        raise KeyError("gone")


def _ids(x):
    return np.rint(x[:, 0, 0, 0] * 255).astype(int).tolist()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.mark.exhaustive
def test_description(data_dir):
    dataset = datasets.load("tiny_images", data_dir=data_dir)
    assert dataset.name == "tiny_images"
    assert dataset.num_classes == 3
    assert dataset.input_shape == (2, 3, 1)
    assert dataset.label_names == ("ant", "bee", "cat")


@tiers.parametrize("part,size", [("train", 22), ("validation", 3), ("test", 7)])
def test_values_and_labels(data_dir, part, size):
    x, y = getattr(datasets.load("tiny_images", data_dir=data_dir), part)
    assert x.dtype == "float32"
    assert y.dtype == "int64"
    assert x.shape == (size, 2, 3, 1)
    ids = np.array(_ids(x))
    np.testing.assert_array_equal(x, np.broadcast_to(x[:, :1, :1], x.shape))
    np.testing.assert_allclose(x[:, 0, 0, 0], ids / 255, rtol=1e-7)
    np.testing.assert_array_equal(y, ids % 3)


@pytest.mark.exhaustive
def test_validation_is_the_end_of_the_training_split(data_dir):
    dataset = datasets.load("tiny_images", data_dir=data_dir)
    split = tfds.load("tiny_images", data_dir=data_dir, split="train", as_supervised=True)
    in_order = [int(image[0, 0, 0]) for image, _ in tfds.as_numpy(split)]
    assert sorted(in_order) == list(range(_NUM_TRAIN))
    assert _ids(dataset.train[0]) == in_order[:-3]
    assert _ids(dataset.validation[0]) == in_order[-3:]
    assert sorted(_ids(dataset.test[0])) == list(range(_FIRST_TEST_ID, _FIRST_TEST_ID + _NUM_TEST))


def test_validation_has_a_largest_size(data_dir, monkeypatch):
    assert tfds_module._MAX_NUM_VALIDATION == 5000
    monkeypatch.setattr(tfds_module, "_MAX_NUM_VALIDATION", 2)
    dataset = datasets.load("tiny_images", data_dir=data_dir)
    assert len(dataset.validation[1]) == 2
    assert len(dataset.train[1]) == _NUM_TRAIN - 2


@pytest.mark.parametrize(
    "name,message",
    [
        ("no_such", r"Received: name='no_such' \(Dataset no_such not found"),
        ("not a name", "Received: name='not a name'"),
        ("tiny_images:9.9.9", "Received: name='tiny_images:9.9.9' .*only: 1.0.0"),
        ("tiny_without_keys", "name='tiny_without_keys' with no supervised keys"),
        ("tiny_of_numbers", r"name='tiny_of_numbers' with \['Image', 'Scalar'\]"),
        ("tiny_of_all_sizes", r"one fixed shape. .*with shape \(None, None, 3\) of uint8"),
        ("tiny_of16_bits", r"uint8 images .*with shape \(2, 3, 1\) of uint16"),
        ("tiny_without_test", r"name='tiny_without_test' with \['train', 'validation'\]"),
    ],
)
def test_unusable_data_sets_are_refused(data_dir, name, message):
    with refusals.assert_refused(message):
        datasets.load(name, data_dir=data_dir)


def test_a_failed_preparation_says_what_failed(data_dir):
    with pytest.raises(OSError, match=r"'tiny_broken' is not prepared .*\('gone'\)"):
        datasets.load("tiny_broken", data_dir=data_dir)


@pytest.mark.parametrize(
    "name,advice",
    [
        ("mnist", 'where there is a network: tfds.load("mnist", data_dir="{}")'),
        ("fashion_mnist", "keras-robust-prepare-idx --data_dir={}"),
    ],
)
def test_without_network_the_error_is_immediate_and_says_what_to_do(
    tmp_path, monkeypatch, name, advice
):
    def fail(*args):
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", pytest.fail)
    with pytest.raises(OSError) as error:
        datasets.load(name, data_dir=str(tmp_path))
    assert "no network: found no address of" in str(error.value)
    assert advice.format(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_behind_a_proxy_the_download_is_tried(tmp_path, monkeypatch):
    def fail(*args):
        raise ConnectionError("the proxy is down")

    monkeypatch.setattr(socket, "getaddrinfo", pytest.fail)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://localhost:1"})
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(OSError, match="the proxy is down"):
        datasets.load("mnist", data_dir=str(tmp_path))
