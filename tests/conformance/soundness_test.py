"""No certified example is broken: five trained networks, 2,000 examples, the strongest attacks."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust.datasets import digits
from tests.certification.optimized_lines_test import _exact
from tests.certification.optimized_lines_test import weights_of

pytestmark = pytest.mark.exhaustive

NUM_CERTIFIED = 400
_IMAGE = (8, 8, 1)


def dense(x, activation="relu"):
    for _ in range(2):
        x = layers.Dense(24, activation=activation)(x)
    return layers.Dense(10)(x)


def residual(x):
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(x)
    inner = layers.Conv2D(6, 3, padding="same", use_bias=False)(x)
    inner = layers.ReLU()(layers.BatchNormalization()(inner))
    return layers.Dense(10)(layers.Flatten()(layers.Add()([x, inner])))


def pooled(x):
    x = layers.MaxPooling2D(2)(layers.Conv2D(8, 3, activation="relu")(x))
    return layers.Dense(10)(layers.Flatten()(x))


def trained(function, epochs=8, **arguments):
    """Returns a network that was trained on the digits, and 700 of the images it was trained on."""
    keras.utils.set_random_seed(0)
    x, y = digits.load().train
    model = keras.Model(inputs := keras.Input(_IMAGE), function(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    callbacks = [kr.AdvTrain(**arguments)] if arguments else None
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks)
    return model, x[:700], y[:700]


def with_intervals():
    kappa = keras.optimizers.schedules.PolynomialDecay(1.0, 200, 0.5)
    objective = kr.objectives.IBP(kappa)
    return trained(pooled, 20, threat_model=kr.Linf(0.1), objective=objective, warmup=200)


_SEARCH = {"max_radius": 2.0, "num_steps": 6}
NETWORKS = {
    "dense": (
        lambda: trained(lambda x: dense(layers.Flatten()(x))),
        kr.certification.Crown(**_SEARCH),
    ),
    "interval": (with_intervals, kr.certification.Interval(**_SEARCH)),
    "residual": (
        lambda: trained(residual),
        kr.certification.AlphaCrown("L2", num_iterations=5, **_SEARCH),
    ),
    "smooth": (
        lambda: trained(lambda x: dense(layers.Flatten()(x), "gelu")),
        kr.certification.Crown("L1", **_SEARCH),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_attack_breaks_a_certified_example(name):
    make, method = NETWORKS[name]
    model, x, y = make()
    found = method.certify(model, x)
    (rows,) = np.nonzero((found.predictions == y) & (found.radii > 0.0))
    rows = rows[:NUM_CERTIFIED]
    assert len(rows) == NUM_CERTIFIED
    x, y, radii = x[rows], y[rows], found.radii[rows]

    def ball(factor):
        scaled = factor * radii
        if method.norm == "Linf":
            return kr.Linf(np.minimum(scaled, 0.5).reshape(-1, 1, 1, 1))
        return {"L2": kr.L2, "L1": kr.L1}[method.norm](scaled)

    attacked = kr.attacks.AutoAttack().run(model, x, y, ball(1.0))
    assert not np.any(attacked.success)
    nearest = kr.attacks.FMN(num_steps=100).run(model, x, y, ball(1.0).with_epsilon(np.inf))
    distances = np.where(nearest.success, -np.asarray(nearest.loss), np.inf)
    # FMN measures in float32.
    assert np.all(distances >= radii * (1.0 - 1e-5))
    # The attacks have teeth: a ball a few times larger does not resist them.
    larger = kr.attacks.APGD().run(model, x, y, ball(8.0))
    assert np.mean(larger.success) > 0.5


def test_enumeration_breaks_no_certified_example():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(800, 3)).astype("float32")
    y = np.argmax(np.stack([x[:, 0], x[:, 1], 0.5 * x[:, 2] + 0.3], axis=-1), axis=-1)
    hidden = [layers.Dense(3, "relu"), layers.Dense(2, "relu")]
    model = keras.Sequential([keras.Input((3,)), *hidden, layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(x, y, epochs=20, verbose=0)
    found = kr.certification.AlphaCrown(max_radius=1.0, num_steps=8).certify(model, x)
    (rows,) = np.nonzero(found.radii > 0.0)
    rows, weights = rows[:NUM_CERTIFIED], weights_of(model)
    assert len(rows) == NUM_CERTIFIED
    for row in rows:
        reach = found.radii[row]
        low, high = np.maximum(x[row] - reach, 0.0), np.minimum(x[row] + reach, 1.0)
        assert _exact(weights, low, high, found.predictions[row]) <= 0.0
