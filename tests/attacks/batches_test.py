import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import batches
from keras_robust.attacks.batches import read_batches
from tests.support import refusals
from tests.support import small_models
from tests.support import tiers

X = np.random.default_rng(0).uniform(size=(6, 3)).astype("float32")
Y = np.arange(6) % 2
PAIR = (X, Y)


class Numbered(keras.utils.PyDataset):
    """Batches of two examples; yields batches beyond the last one, as many data sets do."""

    def __init__(self, num_batches):
        super().__init__()
        self._num_batches = num_batches

    @property
    def num_batches(self):
        return self._num_batches

    def __getitem__(self, index):
        rows = [2 * index % 6, (2 * index + 1) % 6]
        return X[rows], Y[rows]


class Loader:
    """A length and an iterator, like the data loaders of other libraries."""

    def __init__(self, pairs, length):
        self.pairs, self.length = pairs, length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.pairs)


class Unread:
    """Fails the test when anything is read."""

    def __iter__(self):
        raise AssertionError("Nothing may be read.")


class Endless(Unread):
    """Reports infinite cardinality, like a `tf.data.Dataset`."""

    def cardinality(self):
        return tf.data.INFINITE_CARDINALITY


def dataset():
    return tf.data.Dataset.from_tensor_slices(PAIR).batch(2)


def of_unknown_length():
    return dataset().filter(lambda x, y: True)


def read(data, num_examples=None):
    """Returns the labels that were read."""
    found = read_batches(data, lambda batch: tuple(map(np.asarray, batch)), num_examples)
    return np.concatenate([y for _, y in found]).tolist()


ENDLESS = {
    "dataset": lambda: dataset().repeat(),
    "dataset that nobody reads": Endless,
    "dataset of single examples": lambda: dataset().unbatch().repeat(),
    "PyDataset": lambda: Numbered(None),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_data_are_refused_before_they_are_read(kind):
    message = r"have no end.*`num_examples`.*take\(100\).*Received: an endless .* num_examples=None"
    with refusals.assert_refused(message):
        read(ENDLESS[kind]())


def test_num_examples_limits_endless_data():
    assert read(dataset().repeat(), 9) == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert read(Numbered(None), 3) == [0, 1, 0, 1]
    assert read(itertools.repeat(PAIR), 7) == [*Y, *Y]


@pytest.mark.parametrize(
    "make",
    [dataset, of_unknown_length, lambda: Numbered(3), lambda: Loader([PAIR], 1), lambda: [PAIR]],
)
def test_finite_data_are_read_completely(make):
    assert read(make()) == Y.tolist()
    assert read(make(), 100) == Y.tolist()


def test_a_limit_for_unknown_lengths(monkeypatch):
    monkeypatch.setattr(batches, "_MAX_EXAMPLES", 12)
    message = "length of the data is not known.*at most 12 examples.*Received: 18 examples so far"
    for endless in (itertools.repeat(PAIR), Loader(itertools.repeat(PAIR), 1)):
        with pytest.raises(ValueError, match=message):
            read(endless)
    assert len(read(iter([PAIR] * 2))) == 12
    # Data of known length, and examples requested by `num_examples`, are read without a limit.
    assert len(read([PAIR] * 3)) == len(read(Loader([PAIR] * 3, 3))) == 18
    assert len(read(itertools.repeat(PAIR), 18)) == 18
    assert len(read(iter([PAIR] * 3), 100)) == 18


def test_a_limit_for_batches_without_examples(monkeypatch):
    monkeypatch.setattr(batches, "_MAX_EXAMPLES", 12)
    with refusals.assert_refused("Received: 0 examples so far from an object of type repe"):
        read(itertools.repeat((X[:0], Y[:0])))


def test_a_limit_in_bytes(monkeypatch):
    monkeypatch.setattr(batches, "_MAX_BYTES", 3 * (X.nbytes + Y.nbytes) - 1)
    with refusals.assert_refused("Received: 18 examples so far"):
        read(itertools.repeat(PAIR))


READERS = {
    "evaluate": lambda model, data: kr.evaluate(model, data, attacks="fgsm", minimum_norm=None),
    "sanity_check": lambda model, data: kr.sanity_check(model, data, num_examples=None),
    "certify": kr.certify,
    "certify interval": lambda model, data: kr.certify(model, data, "interval"),
    "RobustValidation": lambda model, data: kr.RobustValidation(data),
    "CollapseGuard": lambda model, data: kr.CollapseGuard(data),
}


@tiers.parametrize("reader", READERS, one_for=lambda reader: reader)
def test_every_reader_refuses_endless_data(reader):
    for data in (Endless(), ENDLESS["PyDataset"]()):
        with pytest.raises(ValueError, match="The data have no end"):
            READERS[reader](small_models.simple(), data)


def test_the_exports_refuse_endless_data(tmp_path):
    with refusals.assert_refused("The data have no end", folder=tmp_path):
        kr.export_saved_model(small_models.simple(), tmp_path / "1", data=Endless())
    if keras.backend.backend() == "tensorflow":
        with refusals.assert_refused("The data have no end", folder=tmp_path):
            kr.export.export_portable(
                small_models.simple(), tmp_path / "1", "litert", data=Endless()
            )
    assert not list(tmp_path.iterdir())
