import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks.data import check_examples
from keras_robust.attacks.data import to_arrays
from tests.support import refusals

X = np.random.default_rng(0).uniform(size=(7, 3)).astype("float32")
Y = np.arange(7) % 3


def sources():
    batches = [(X[:3], Y[:3]), (X[3:6], Y[3:6]), (X[6:], Y[6:])]
    weighted = [(x, y, np.ones(len(y))) for x, y in batches]
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3)
    return {
        "arrays": (X, Y),
        "list": [X, Y],
        "weighted arrays": (X, Y, np.ones(7)),
        "tensors": (keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(Y)),
        "batches": batches,
        "generator": iter(batches),
        "weighted batches": weighted,
        "dataset": dataset,
    }


@pytest.mark.parametrize("num_examples", [None, 1, 4, 6, 100])
@pytest.mark.parametrize("source", sources())
def test_every_source_gives_the_first_examples_in_order(source, num_examples):
    x, y = to_arrays(sources()[source], num_examples)
    np.testing.assert_array_equal(x, X[:num_examples])
    np.testing.assert_array_equal(y, Y[:num_examples])


def test_no_more_batches_are_read_than_needed():
    read = []

    def batches():
        for start in range(0, 6, 2):
            read.append(start)
            yield X[start : start + 2], Y[start : start + 2]

    to_arrays(batches(), 3)
    assert read == [0, 2]


@pytest.mark.parametrize(
    ("data", "num_examples", "message"),
    [
        ([], None, "at least one example. Received: empty data"),
        ([X, X], 0, "`num_examples` must be an int >= 1. Received: 0"),
        (iter([X]), None, r"Expected batches \(x, y\), with labels. Received: .* type ndarray"),
        (X, None, r"Expected data as `\(x, y\)`.* Received: one array of shape \(7, 3\)"),
        ({"x": X, "y": Y}, None, r"Expected data as `\(x, y\)`.* Received: a dict of arrays"),
        (
            [{"image": X, "label": Y}],
            None,
            r"map\(lambda batch: \(batch\['image'\], batch\['label'\]\)\)`.*keys 'image', 'label'",
        ),
        ([{"a": X, "b": X, "c": Y}], None, "batches that are dicts, with the keys 'a', 'b', 'c'"),
        ([(X, Y), (X[:, :2], Y)], None, r"one shape in all batches.*Received: .*\(2,\), \(3,\)"),
        ((tf.ragged.constant([[0.1, 0.2], [0.3]]), Y[:2]), None, "of one length.*RaggedTensor"),
        ((X.tolist(), Y.tolist()), None, r"two Python lists `\(np.asarray\(x\), np.asarray"),
        ([(X,)], None, r"Expected batches \(x, y\), with labels. Received: .* type tuple"),
    ],
)
def test_bad_data_is_explained(data, num_examples, message):
    with refusals.assert_refused(message):
        to_arrays(data, num_examples)


def test_examples_become_float32_and_labels_stay():
    x, y = check_examples(X.astype("float64"), [2, 1, 0, 0, 1, 2, 0], kr.Linf(0.1))
    assert x.dtype == "float32"
    np.testing.assert_array_equal(x, X)
    assert y.tolist() == [2, 1, 0, 0, 1, 2, 0]


def test_rounding_errors_are_clipped_and_real_ones_refused():
    x = X.copy()
    x[0, 0], x[1, 1] = 1.00009, -0.00009
    clipped, _ = check_examples(x, Y, kr.Linf(0.1))
    assert (clipped[0, 0], clipped[1, 1]) == (1.0, 0.0)
    np.testing.assert_array_equal(check_examples(x, Y, kr.Linf(0.1, None))[0], x)
    x[0, 0] = 1.001
    with pytest.raises(ValueError, match=r"lie in the bounds.*, 1.001\] under bounds=\(0.0, 1.0\)"):
        check_examples(x, Y, kr.Linf(0.1))


def test_bounds_apply_per_channel():
    wide = kr.Linf(0.1, (0.0, [2.0, 1.0, 1.0]))
    x = X.copy()
    x[0, 0] = 1.5
    np.testing.assert_array_equal(check_examples(x, Y, wide)[0], x)
    x[0, 1] = 1.5
    with pytest.raises(ValueError, match="lie in the bounds"):
        check_examples(x, Y, wide)


def test_labels_may_be_missing():
    assert check_examples(X, None, kr.Linf(0.1))[1] is None


def test_single_examples_are_refused():
    data = tf.data.Dataset.from_tensor_slices((np.zeros((3, 2), "float32"), np.zeros(3, "int64")))
    with refusals.assert_refused(r"Expected batches.*Received: single.*shape \(2,\)"):
        to_arrays(data)


SEVERAL = {"b": X, "a": np.arange(7)}


def several(kind):
    """Returns data with two inputs, in the form `kind`."""
    if kind.startswith("list"):
        x = [SEVERAL["b"], SEVERAL["a"]]
        return (
            (x, Y) if kind == "list" else [([b[:4] for b in x], Y[:4]), ([b[4:] for b in x], Y[4:])]
        )
    if kind == "dataset":
        return tf.data.Dataset.from_tensor_slices((SEVERAL, Y)).batch(3)
    return SEVERAL, Y


@pytest.mark.parametrize("num_examples", [None, 2, 5])
@pytest.mark.parametrize("kind", ["dict", "list", "dataset", "list of batches"])
def test_several_inputs_keep_their_structure_and_types(kind, num_examples):
    x, y = to_arrays(several(kind), num_examples)
    found = x if isinstance(x, dict) else dict(zip(SEVERAL, x, strict=True))
    for name, leaf in SEVERAL.items():
        np.testing.assert_array_equal(found[name], leaf[:num_examples])
        assert found[name].dtype == leaf.dtype
    np.testing.assert_array_equal(y, Y[:num_examples])


def test_several_labels_are_refused():
    batches = [(X, {"one": Y, "two": Y})]
    with pytest.raises(ValueError, match="one label per example.*type dict with several entries"):
        to_arrays(batches)


def test_several_inputs_need_a_threat_model_for_them():
    with pytest.raises(ValueError, match=r"several inputs. Choose the inputs.*inputs \['b', 'a'\]"):
        check_examples(SEVERAL, Y, kr.Linf(0.1))
    x, _ = check_examples(SEVERAL, Y, kr.threat_models.get({"b": kr.Linf(0.1)}))
    assert list(x) == ["b", "a"]
    np.testing.assert_array_equal(x["a"], SEVERAL["a"])
    outside = {"b": X + np.float32(5e-5) * (X == X.max()), "a": X + 2.0}
    x, _ = check_examples(outside, Y, kr.threat_models.get({"b": kr.Linf(0.1, (0.0, X.max()))}))
    assert x["b"].max() == X.max()
    np.testing.assert_array_equal(x["a"], X + 2.0)
    with pytest.raises(ValueError, match="Expected one label per example. Received: 7 examples"):
        check_examples(SEVERAL, Y[:3], kr.threat_models.get({"b": kr.Linf(0.1)}))


def test_one_example_may_come_with_a_list_of_one_label():
    x, y = to_arrays((X[:1], [2]))
    assert x.shape == (1, 3) and y.tolist() == [2]


def test_text_inputs_are_refused():
    with pytest.raises(ValueError, match="must be numbers.*AtLayer.*dtype <U1"):
        check_examples(np.array(["a", "b"]), np.array([0, 1]), kr.Linf(0.1))
