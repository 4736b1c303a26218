import keras
import pytest

import keras_robust as kr
from keras_robust.models.compiled_loss import read_loss


class _OwnMargin(kr.losses.Margin):
    pass


def _custom_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


@pytest.mark.parametrize(
    "loss,expected",
    [
        (None, ("", None, False)),
        (["mse", "mae"], ("several", None, False)),
        ("mse", ("mean_squared_error", None, True)),
        (["sparse_categorical_crossentropy"], ("sparse_categorical_crossentropy", False, True)),
        (
            keras.losses.CategoricalCrossentropy(from_logits=True),
            ("categorical_crossentropy", True, True),
        ),
        (keras.losses.binary_crossentropy, ("binary_crossentropy", False, True)),
        (keras.losses.CategoricalHinge(), ("categorical_hinge", None, True)),
        (kr.losses.Margin(), ("margin", True, True)),
        (_OwnMargin(), ("_own_margin", None, False)),
        (_custom_loss, ("_custom_loss", None, False)),
    ],
)
def test_name_from_logits_and_whether_the_loss_is_known(loss, expected):
    inputs = keras.Input((2,))
    outputs = [keras.layers.Dense(2)(inputs) for _ in range(2 if loss == ["mse", "mae"] else 1)]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss)
    assert read_loss(model) == expected


def test_a_callable_has_no_loss():
    assert read_loss(lambda x: x) == ("", None, False)
