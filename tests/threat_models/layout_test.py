import keras
import numpy as np
import pytest

from keras_robust.threat_models.layout import Layout
from keras_robust.threat_models.layout import map_named
from keras_robust.threat_models.layout import names_of
from tests.support import refusals

DICT = {
    "word": np.array([4, 5]),
    "b": np.arange(8.0).reshape(2, 2, 2),
    "a": np.array([[10], [11]], "uint8"),
    "one": np.array([7.0, 8.0]),
}
LIST = list(DICT.values())


@pytest.mark.parametrize(("inputs", "names"), [(DICT, ["a", "b", "one"]), (LIST, [2, 1, 3])])
def test_inputs_are_joined_in_the_order_of_the_names(inputs, names):
    layout = Layout(inputs, names)
    joined = layout.join(inputs)
    assert joined.dtype == "float32"
    np.testing.assert_array_equal(joined, [[10, 0, 1, 2, 3, 7], [11, 4, 5, 6, 7, 8]])
    for piece, name in zip(layout.split(joined), names, strict=True):
        np.testing.assert_array_equal(piece, inputs[name])


def test_replacing_keeps_the_structure_and_unnamed_inputs():
    x = np.arange(12, dtype="float32").reshape(2, 6)
    for inputs in (LIST, tuple(LIST)):
        replaced = Layout(inputs, [2, 1, 3]).replace(inputs, x)
        assert type(replaced) is type(inputs)
        assert replaced[0] is inputs[0]
        np.testing.assert_array_equal(replaced[1], [[[1, 2], [3, 4]], [[7, 8], [9, 10]]])
    replaced = Layout(DICT, ["a", "b", "one"]).replace(DICT, x)
    assert list(replaced) == list(DICT)
    assert replaced["word"] is DICT["word"]
    np.testing.assert_array_equal(replaced["a"], [[0], [6]])
    np.testing.assert_array_equal(replaced["one"], [5, 11])
    # The structure of the caller is not modified.
    assert DICT["one"].tolist() == [7.0, 8.0]


def test_arrays_give_arrays_and_tensors_give_tensors():
    layout = Layout(DICT, ["b"])
    x = np.zeros((2, 4), "float32")
    assert isinstance(layout.replace(DICT, x)["b"], np.ndarray)
    assert keras.ops.is_tensor(layout.replace(DICT, keras.ops.convert_to_tensor(x))["b"])


def test_bounds_are_joined_like_inputs():
    layout = Layout(DICT, ["b", "a"])
    low, high = layout.join_bounds([([0.0, 1.0], 5.0), None])
    np.testing.assert_array_equal(low, [0, 1, 0, 1, -np.inf])
    np.testing.assert_array_equal(high, [5, 5, 5, 5, np.inf])
    # A bound may have the axis of a batch.
    low, _ = layout.join_bounds([(np.array([[[[0.0]], [[1.0]]]])[..., 0], 5.0), (-1.0, 1.0)])
    np.testing.assert_array_equal(low, [0, 0, 1, 1, -1])
    assert layout.join_bounds([None, None]) is None


def test_mapping_passes_names_and_threat_models():
    seen = []

    def function(leaf, name, threat_model):
        seen.append((name, threat_model))
        return leaf + 1

    mapped = map_named(function, DICT, {"a": "A"})
    assert seen == [("word", None), ("b", None), ("a", "A"), ("one", None)]
    assert list(mapped) == list(DICT)
    np.testing.assert_array_equal(mapped["word"], [5, 6])
    seen.clear()
    assert isinstance(map_named(function, tuple(LIST), {1: "B"}), tuple)
    assert seen[:2] == [(0, None), (1, "B")]


def test_names():
    assert names_of(DICT) == list(DICT)
    assert names_of(tuple(LIST)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="as a dict, or as a list or tuple.*type ndarray"):
        names_of(DICT["a"])


@pytest.mark.parametrize(
    ("inputs", "name", "message"),
    [
        (DICT, "z", "names the input 'z'"),
        (LIST, 4, r"names the input 4.*Received: inputs \[0, 1, 2, 3\]"),
        ({"a": [DICT["a"]]}, "a", "under 'a' an object of type list"),
        ({"a": keras.KerasTensor((None, None, 3))}, "a", r"fixed shape.*shape \(None, 3\)"),
    ],
)
def test_bad_inputs_are_explained(inputs, name, message):
    with refusals.assert_refused(message):
        Layout(inputs, [name])
