import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.export.inputs import Inputs


def two_inputs(as_dict=True, names=("z in", "a")):
    layers = {
        name: keras.Input((size,), name=name) for name, size in zip(names, (2, 3), strict=True)
    }
    features = keras.layers.Concatenate()(list(layers.values()))
    structure = layers if as_dict else list(layers.values())
    return keras.Model(structure, keras.layers.Dense(3)(features))


def test_names_shapes_and_dtypes():
    inputs = Inputs(two_inputs())
    specs = {spec.name: (spec.shape.as_list(), spec.dtype) for spec in inputs.specs}
    assert specs == {"z_in": ([None, 2], tf.float32), "a": ([None, 3], tf.float32)}
    keys = dict(zip(inputs.keys, (spec.name for spec in inputs.specs), strict=True))
    assert keys == {"z in": "z_in", "a": "a"}


@pytest.mark.parametrize("as_dict", [True, False])
def test_pack_is_the_inverse_of_unpack(as_dict):
    model = two_inputs(as_dict)
    inputs = Inputs(model)
    z, a = np.ones((4, 2)), np.zeros((4, 3))
    x = {"z in": z, "a": a, "other": z} if as_dict else [z, a]
    leaves = inputs.unpack(x)
    assert [leaf.dtype for leaf in leaves] == ["float32", "float32"]
    expected = model({"z in": z, "a": a} if as_dict else [z, a])
    np.testing.assert_allclose(model(inputs.pack(map(tf.constant, leaves))), expected)


@pytest.mark.exhaustive
def test_one_input_in_a_sequence_a_dict_and_behind_noise():
    sequence = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(3)])
    assert Inputs(sequence).pack(["tensor"]) == "tensor"
    tensor = keras.Input((2,), name="key")
    nested = keras.Model({"key": tensor}, keras.layers.Dense(3)(tensor))
    assert Inputs(nested).pack(["tensor"]) == {"key": "tensor"}
    smoothed = kr.layers.RandomizedSmoothing(sequence)
    smoothed(np.zeros((1, 2), "float32"))
    assert Inputs(smoothed).specs == Inputs(sequence).specs


def test_random_examples_are_within_the_bounds():
    tensors = [
        keras.Input((5, None), name="x"),
        keras.Input((2,), name="text", dtype="string"),
        keras.Input((), name="number", dtype="int32"),
    ]
    inputs = Inputs(keras.Model(tensors, keras.layers.Flatten()(tensors[0][..., :1])))
    x, text, number = inputs.random_examples(7, [([-1.0], [2.0]), None, None])
    assert (x.shape, x.dtype) == ((7, 5, 1), "float32")
    assert -1.0 <= x.min() < -0.5 and 1.5 < x.max() <= 2.0
    assert (text.shape, text[0, 0], number.dtype) == ((7, 2), b"", "int32")


def test_examples_of_another_shape():
    inputs = Inputs(two_inputs())
    for x in ({"z in": np.ones((4, 2))}, {"z in": np.ones((4, 3)), "a": np.ones((4, 3))}):
        with pytest.raises(ValueError, match="Expected examples of shapes {'a': .*Received"):
            inputs.unpack(x)


def test_names_that_become_equal_are_refused():
    with pytest.raises(ValueError, match="Every input needs a different name.*'a_b', 'a_b'"):
        Inputs(two_inputs(names=("a b", "a_b")))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("größe", "gr__e"),
        ("_x", "x__x"),
        ("1st", "x_1st"),
        ("self", "x_self"),
        ("seed", "x_seed"),
        ("alpha", "x_alpha"),
        ("num_samples", "x_num_samples"),
        ("a.b", "a_b"),
    ],
)
def test_names_that_tensorflow_takes(name, expected):
    model = keras.Sequential([keras.Input((2,), name=name), keras.layers.Dense(2)])
    (spec,) = Inputs(model).specs
    assert spec.name == expected
    graph = tf.function(lambda x: {"y": x}).get_concrete_function(spec)
    assert list(graph.structured_input_signature[0])[0].name == expected
