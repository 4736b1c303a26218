import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust.certification import Linear
from keras_robust.certification import Lipschitz
from tests.support import numpy_reference


def test_a_linear_model_has_its_exact_distance():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), layers.Rescaling(3.0), layers.Dense(3)])
    model.layers[-1].set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    x = rng.uniform(size=(20, 4)).astype("float32")
    expected = Linear("L2", bounds=None).certify(model, x)
    found = Lipschitz().certify(model, x)
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    np.testing.assert_allclose(found.radii, expected.radii, rtol=1e-4)


@pytest.mark.parametrize("end", [None, "softmax", "sigmoid"])
def test_one_hidden_layer_by_hand(end):
    units = 1 if end == "sigmoid" else 3
    (kernel, bias), (head, offset) = numpy_reference.HIDDEN, numpy_reference.HEAD
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(units, end)])
    model.set_weights([kernel, bias, head[:, :units], offset[:units]])
    x, _ = numpy_reference.examples(9)
    body = np.linalg.norm(kernel, 2)
    z = np.tanh(x.astype("float64") @ kernel + bias) @ head[:, :units] + offset[:units]
    found = Lipschitz().certify(model, x)
    if units == 1:
        expected = np.abs(z[:, 0]) / (np.linalg.norm(head[:, 0]) * body)
        np.testing.assert_array_equal(found.predictions, z[:, 0] > 0)
    else:
        expected = [
            min(
                (row.max() - row[j]) / np.linalg.norm(head[:, row.argmax()] - head[:, j])
                for j in range(3)
                if j != row.argmax()
            )
            / body
            for row in z
        ]
    np.testing.assert_allclose(found.radii, expected, rtol=1e-4)


def test_without_a_last_dense_layer_the_constant_is_the_square_root_of_two():
    model = keras.Sequential([keras.Input((3,)), layers.Rescaling(5.0), layers.ReLU()])
    found = Lipschitz().certify(model, np.array([[0.9, 0.5, 0.1]], "float32"))
    assert found.radii[0] == pytest.approx(5 * 0.4 / (5 * 2**0.5), rel=1e-5)


def test_a_constant_model():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_initializer="zeros")])
    model.layers[0].bias.assign([0.0, 1.0])
    found = Lipschitz().certify(model, np.ones((2, 3), "float32"))
    np.testing.assert_array_equal(found.radii, np.full(2, np.finfo("float32").max))


@pytest.mark.exhaustive
def test_certified_radii_are_below_the_nearest_mistakes_that_fmn_finds():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(24, 6, 6, 1)).astype("float32")
    y = (x[:, :3].mean(axis=(1, 2, 3)) > x[:, 3:].mean(axis=(1, 2, 3))).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            kr.layers.OrthogonalConv2D(4, 3),
            kr.layers.GroupSort(),
            layers.Flatten(),
            kr.layers.SpectralDense(8),
            kr.layers.GroupSort(),
            layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(x, y, epochs=30, verbose=0)
    report = kr.certify(model, (x, y), "lipschitz")
    assert (report.norm, report.clean_accuracy) == ("L2", 1.0)
    x_adv = kr.attacks.FMN(num_steps=60)(model, x, y, kr.L2(5.0))
    distances = np.linalg.norm((x_adv - x).reshape(len(x), -1), axis=-1)
    found = np.argmax(model(x_adv), axis=-1) != y
    radii = np.array(report.radii)
    assert found.mean() > 0.7
    assert np.all(radii[found] <= distances[found] + 1e-4)
    # With orthogonal layers the certified radius is close to the distance that the attack finds.
    assert np.median(radii[found] / distances[found]) > 0.3


def test_other_layers_are_refused():
    model = keras.Sequential([keras.Input((3,)), layers.LayerNormalization(), layers.Dense(2)])
    with pytest.raises(ValueError, match="No Lipschitz constant.*LayerNormalization"):
        Lipschitz().certify(model, np.ones((2, 3), "float32"))
