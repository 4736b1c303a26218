import keras
import pytest

from keras_robust.certification.graph import propagate
from keras_robust.certification.graph import refuse
from keras_robust.certification.graph import refuse_activation


def name_of(layer, *values):
    parts = values[0] if isinstance(values[0], list) else values
    return f"{layer.name}({', '.join(parts)})"


def test_layers_are_replaced_in_their_order():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="c")], name="inner")
    inputs = keras.Input((3,))
    a = keras.layers.Dense(4, name="a")(inputs)
    b = keras.layers.Dropout(0.5, name="b")(a)
    joined = keras.layers.Add(name="d")([inner(b), a])
    model = keras.Model(inputs, joined)
    assert propagate(model, "x", name_of) == "d(c(b(a(x))), a(x))"
    assert propagate(inner, "x", name_of) == "c(x)"


def test_a_shared_layer_runs_where_it_is_called():
    dense = keras.layers.Dense(3, name="a")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, dense(dense(inputs)))
    assert propagate(model, "x", name_of) == "a(a(x))"


def test_training_mode_is_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dropout(0.5, name="noise")(inputs, training=True))
    with pytest.raises(ValueError, match="'noise' called with .'training'."):
        propagate(model, "x", name_of)


def test_other_models_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    two = [keras.Input((3,)), keras.Input((3,))]
    several = keras.Model(two, keras.layers.Add()(two))
    for model in (Own(), keras.Sequential([keras.layers.Dense(2)]), several, len):
        with pytest.raises(ValueError, match=f"Expected a built Seq.*a {type(model).__name__}"):
            propagate(model, "x", name_of)


class Louder(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(10.0 * x, training=training)


class Masked(keras.Model):
    def __call__(self, x, **kwargs):
        return super().__call__(-x, **kwargs)


class Trained(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def test_a_custom_call_is_refused_also_in_an_inner_model():
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(2, name="a")(inputs)
    own = Louder([inputs, keras.layers.Dense(2)], name="b")
    nested = keras.Sequential([inputs, own])
    changed = keras.Model(inputs, outputs)
    changed.call = lambda x: x
    models = [(own, "`call`"), (nested, "`call`"), (changed, "`call`")]
    for model, name in [*models, (Masked(inputs, outputs), "`__call__`")]:
        with pytest.raises(ValueError, match=f"A model with a custom {name}.*Received: a"):
            propagate(model, "x", name_of)
    assert propagate(Trained(inputs, outputs), "x", name_of) == "a(x)"


def test_errors_name_the_layer_and_the_supported_layers():
    layer = keras.layers.Dense(3, name="last")
    with pytest.raises(
        ValueError,
        match="No bound is known.*Supported are.*A, B. Received: layer 'last' of class Dense",
    ):
        refuse(layer, "bound", ["B", "A"])
    with pytest.raises(
        ValueError, match="No bound.*Supported are a, b. Received: gelu in layer 'last'"
    ):
        refuse_activation(layer, keras.activations.gelu, "bound", ["b", "a"])
