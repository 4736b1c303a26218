import keras
import numpy as np
import pytest

from keras_robust import backend
from keras_robust import models
from keras_robust.certification.noisy_votes import ESTIMATION
from keras_robust.certification.noisy_votes import SELECTION
from keras_robust.certification.noisy_votes import NoisyVotes

KERNEL = np.array([[1.0, -0.5, 0.2], [-0.4, 1.2, 0.1]], "float32")
X = np.random.default_rng(0).uniform(size=(4, 2)).astype("float32")
STDDEV = 0.7
LIMITS = (130, 370)


def linear(x):
    return keras.ops.matmul(x, KERNEL)


def make(function=linear, x=X, seed=5):
    return NoisyVotes(models.Classifier(function), x, stddev=STDDEV, limits=LIMITS, seed=seed)


def never(row):
    return False


def reference(row, stage, seed=5):
    """Returns the votes in NumPy, for the noise of the seeds of row, set and block."""
    own = keras.ops.convert_to_tensor([seed, 0], "int32")
    for number in (row, stage):
        own = backend.fold_in(own, number)
    blocks = [backend.normal((100, 2), backend.fold_in(own, block)) for block in range(4)]
    noise = np.concatenate([np.asarray(block) for block in blocks])[: LIMITS[stage]]
    classes = np.argmax((X[row] + STDDEV * noise) @ KERNEL, axis=-1)
    return np.bincount(classes, minlength=3)


@pytest.mark.parametrize("batch_size", [None, 1, 300, 700])
def test_votes_are_those_of_every_copy_in_numpy(batch_size):
    noisy = make()
    noisy.run(range(4), never, batch_size)
    for row in range(4):
        for stage in (SELECTION, ESTIMATION):
            np.testing.assert_array_equal(noisy.votes[row, stage], reference(row, stage))
            assert noisy.cast[row, stage] == LIMITS[stage]
        assert noisy.selected(row) == np.argmax(reference(row, SELECTION))
        assert noisy.count(row) == reference(row, ESTIMATION)[noisy.selected(row)]


def test_seed_row_and_set_change_the_votes():
    assert not np.array_equal(reference(0, ESTIMATION), reference(0, ESTIMATION, seed=6))
    same = make(x=np.repeat(X[:1], 3, axis=0))
    same.run(range(3), never)
    assert len({tuple(same.votes[row, ESTIMATION]) for row in range(3)}) > 1
    other = make(seed=6)
    other.run(range(1), never)
    np.testing.assert_array_equal(other.votes[0, ESTIMATION], reference(0, ESTIMATION, seed=6))


def test_batches_hold_blocks_of_several_inputs_and_have_one_size():
    sizes = []

    def spy(x):
        sizes.append(x.shape[0])
        return linear(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "compile_function", lambda function: function)
        make(spy).run(range(4), never, batch_size=590)
        # 4 inputs of 2 + 4 blocks are 24 blocks, in batches of 5.
        assert sizes == [500] * 5
        sizes.clear()
        make(spy).run(range(4), never, batch_size=10**6)
        assert sizes == [2400]
    sizes.clear()
    make(spy).run(range(4), never, batch_size=500)
    assert set(sizes) == {500}
    first = len(sizes)
    make(spy, x=X[:2]).run(range(2), never, batch_size=500)
    # As many traces for 12 blocks as for 24.
    assert len(sizes) == 2 * first


def test_the_default_batch_suits_the_size_of_the_inputs():
    def size_for(shape):
        sizes = []

        def spy(x):
            sizes.append(x.shape[0])
            return keras.ops.reshape(x, (x.shape[0], -1))[:, :2]

        x = np.zeros((30, *shape), "float32")
        make(spy, x=x).run(range(1), never)
        return set(sizes)

    assert size_for((2,)) == {2000}
    assert size_for((28, 28)) == {1300}
    assert size_for((2000, 10)) == {100}


def test_decided_inputs_cast_no_more_blocks():
    noisy = make()

    def is_decided(row):
        return row != 2 and noisy.cast[row, ESTIMATION] >= 100

    noisy.run(range(4), is_decided, batch_size=100)
    # One block is already drawn when the first one is known.
    assert [noisy.cast[row, ESTIMATION] for row in range(4)] == [200, 200, 370, 200]
    assert all(noisy.cast[row, SELECTION] == 130 for row in range(4))


def test_an_input_without_estimates_has_no_votes():
    noisy = make()
    noisy.run(range(1), lambda row: noisy.cast[row, SELECTION] >= 100, batch_size=100)
    assert noisy.cast[0, ESTIMATION] == 0
    assert noisy.count(0) == 0


def test_no_inputs_need_no_votes():
    empty = make(x=X[:0])
    empty.run(range(0), never)
    assert not empty.votes
