"""The same seed gives the same numbers, to the last bit, on one machine's CPU."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import cases
from tests.support import tiers

ROOT = pathlib.Path(__file__).parents[2]
_RNG = np.random.default_rng(8)
X = _RNG.uniform(size=(20, 6, 6, 1)).astype("float32")
Y = _RNG.integers(0, 3, size=20)
BALL = kr.Linf(0.1)
ATTACKS = {name: cases.ATTACKS[name] for name in ("PGD", "APGD", "Square", "SPSA", "NFGSM", "FMN")}


def make_model():
    """A network with every layer that draws or keeps numbers."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.RandomFlip(),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def train(objective="adversarial", seed=0):
    """Trains for two epochs in a shuffled order, and returns weights and logs."""
    model = make_model()
    callback = kr.AdvTrain(
        BALL, attack=kr.attacks.PGD(num_steps=2), objective=objective, seed=seed, warmup=3
    )
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    return [*map(np.array, model.variables), np.array([*history.history.values()])], model


def evaluate(model, **arguments):
    """Returns all arrays of an evaluation."""
    suite = [kr.attacks.PGD(num_steps=2, num_restarts=2), kr.attacks.Square(num_queries=5)]
    arguments = {"minimum_norm": kr.attacks.FMN(num_steps=3), **arguments}
    report = kr.evaluate(model, (X, Y), BALL, suite, **arguments)
    return [report.x_adv, report.logits, report.adv_logits, report.distances]


def bits(arrays):
    """Returns the bytes of arrays as text, for JSON."""
    return [array.tobytes().hex() for array in arrays]


def main():
    """What another process must find too."""
    arrays, model = train()
    print(json.dumps([bits(arrays), bits(evaluate(model))]))  # noqa: T201


@pytest.fixture(scope="module")
def once():
    return train()


def _assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_training_again_gives_the_same_weights_and_logs(once):
    _assert_same(train()[0], once[0])


@pytest.mark.exhaustive
def test_another_seed_gives_others(once):
    # Flips, dropout, order and first weights are the same: it is the seed of the attack.
    other, _ = train(seed=1)
    assert any(np.any(one != two) for one, two in zip(other, once[0], strict=True))


@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", ["vat", "kurakin", "jacobian"])
def test_objectives_with_random_numbers_of_their_own(objective):
    _assert_same(train(objective)[0], train(objective)[0])


@pytest.mark.exhaustive
def test_evaluating_again_gives_the_same_arrays(once):
    _assert_same(evaluate(once[1]), evaluate(once[1]))
    assert np.any(evaluate(once[1], seed=1)[0] != evaluate(once[1])[0])


@tiers.parametrize("name", ATTACKS)
def test_an_attack_again_gives_the_same_examples(once, name):
    first, second = (
        np.asarray(ATTACKS[name](once[1], X, Y, BALL, seed=5, batch_size=20)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.any(first != X)


@pytest.mark.exhaustive
def test_another_process_finds_the_same_bits(once):
    # Here the process has two devices; there it is told to have them too.
    command = (
        "from tests import conftest; from tests.conformance import determinism_test as test; "
        "test.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "17"},
        capture_output=True,
        text=True,
        check=True,
    )
    weights, evaluated = json.loads(done.stdout.splitlines()[-1])
    assert weights == bits(once[0])
    assert evaluated == bits(evaluate(once[1]))


@pytest.mark.exhaustive
def test_nothing_in_it_is_an_op_that_tensorflow_knows_to_be_random():
    # TensorFlow then refuses each of them; on a GPU it is what makes two runs the same.
    command = (
        "from tests import conftest; import tensorflow as tf; "
        "tf.config.experimental.enable_op_determinism(); "
        "from tests.conformance import determinism_test as test; "
        "test._assert_same(test.train()[0], test.train()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
