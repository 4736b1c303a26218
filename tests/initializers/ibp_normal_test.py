import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_robust as kr
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_rules import propagate_box


@pytest.mark.parametrize(
    ("shape", "fan_in"), [((400, 300), 400), ((5, 5, 16, 64), 400), ((3, 32, 200), 96)]
)
def test_moments(shape, fan_in):
    kernel = np.asarray(kr.initializers.IBPNormal(seed=1)(shape), "float64")
    stddev = np.sqrt(2.0 * np.pi) / fan_in
    assert kernel.std() == pytest.approx(stddev, rel=0.03)
    assert abs(kernel.mean()) < 4.0 * stddev / np.sqrt(kernel.size)
    assert np.mean(np.abs(kernel).sum(axis=tuple(range(len(shape) - 1)))) == pytest.approx(
        2.0, rel=0.03
    )
    # A normal distribution that is not truncated.
    assert np.mean(np.abs(kernel) > 2.5 * stddev) == pytest.approx(0.0124, rel=0.25)


def _growth(initializer):
    """The width of a box behind four ReLUs, divided by its width at the input."""
    keras.utils.set_random_seed(0)
    parts = []
    for _ in range(2):
        parts.append(layers.Conv2D(32, 3, activation="relu", kernel_initializer=initializer))
    parts.append(layers.Flatten())
    for _ in range(2):
        parts.append(layers.Dense(200, activation="relu", kernel_initializer=initializer))
    model = keras.Sequential([keras.Input((10, 10, 1)), *parts])
    x = np.random.default_rng(0).uniform(size=(8, 10, 10, 1))
    ends = (ops.convert_to_tensor(x + sign * 0.1, "float32") for sign in (-1.0, 1.0))
    box = propagate_box(model, IntervalBounds(*ends))
    return float(np.mean(box.radius)) / 0.1


def test_boxes_keep_their_width():
    assert 0.5 < _growth(kr.initializers.IBPNormal()) < 2.0
    assert _growth("he_normal") > 1000.0


def test_seed_dtype_and_config():
    initializer = kr.initializers.IBPNormal(seed=7)
    first = np.asarray(initializer((4, 3)))
    np.testing.assert_array_equal(first, initializer((4, 3)))
    assert not np.allclose(first, kr.initializers.IBPNormal(seed=8)((4, 3)))
    assert keras.backend.standardize_dtype(initializer((2, 2), "float16").dtype) == "float16"
    config = keras.saving.serialize_keras_object(initializer)
    assert config["config"] == {"seed": 7}
    np.testing.assert_array_equal(first, keras.saving.deserialize_keras_object(config)((4, 3)))


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    dense = layers.Dense(3, kernel_initializer=kr.initializers.IBPNormal(seed=2))
    model = keras.Sequential([keras.Input((4,)), dense])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[-1]
    np.testing.assert_array_equal(loaded.kernel, model.layers[-1].kernel)
    assert loaded.kernel_initializer.get_config() == {"seed": 2}
