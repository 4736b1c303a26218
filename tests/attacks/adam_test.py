import keras
import numpy as np

from keras_robust.attacks.adam import Adam


def test_is_the_adam_of_keras():
    gradients = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    variable = keras.Variable(np.zeros((2, 3), "float32"))
    optimizer = keras.optimizers.Adam(0.5, epsilon=1e-8)
    adam, position = Adam.empty(keras.ops.zeros((2, 3))), np.zeros((2, 3))
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        adam = adam.add(gradient)
        mean, size = adam.direction_and_size()
        position = position - 0.5 * np.asarray(mean) / np.asarray(size)
        np.testing.assert_allclose(position, variable, rtol=1e-5, atol=1e-6)


def test_the_first_step_is_the_sign_and_no_gradient_no_step():
    adam = Adam.empty(keras.ops.zeros((3,))).add(np.float32([4.0, 0.0, -1e-3]))
    mean, size = adam.direction_and_size()
    np.testing.assert_allclose(np.asarray(mean) / np.asarray(size), [1.0, 0.0, -1.0], rtol=1e-4)
