import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.export import warmup_log
from tests.support import backends
from tests.support import tiers


def _of_any_length():
    tokens = keras.Input((None,), dtype="int64", name="tokens")
    hidden = keras.layers.Conv1D(8, 7)(keras.layers.Embedding(50, 4)(tokens))
    return keras.Model(tokens, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling1D()(hidden)))


def _of_any_size():
    images = keras.Input((None, None, 3), name="images")
    hidden = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(4, 5)(images))
    return keras.Model(images, keras.layers.Dense(2)(hidden))


def _of_text():
    text, number = keras.Input((1,), dtype="string", name="c"), keras.Input((1,), name="n")
    lookup = keras.layers.StringLookup(
        vocabulary=["a", "b"], num_oov_indices=0, mask_token=None, output_mode="one_hot"
    )
    columns = [keras.layers.Reshape((2,))(lookup(text)), number]
    return keras.Model(
        {"c": text, "n": number}, keras.layers.Dense(2)(keras.layers.concatenate(columns))
    )


OPEN = {
    "any length": (_of_any_length, np.arange(5 * 30).reshape(5, 30) % 50),
    "any size": (
        _of_any_size,
        np.random.default_rng(0).uniform(size=(5, 9, 8, 3)).astype("float32"),
    ),
    "text": (
        _of_text,
        {"c": np.array([["a"], ["b"]] * 3, object), "n": np.arange(6.0)[:, None].astype("float32")},
    ),
}


@backends.tensorflow_only("text, and graphs of any length")
@tiers.parametrize("name", OPEN)
def test_text_and_unknown_lengths_need_data(tmp_path, name):
    make, x = OPEN[name]
    model, guard = make(), kr.layers.InputGuard(None)
    asked = "text, or inputs of any length, and fails on random examples: pass a few real examples"
    with pytest.raises(ValueError, match=asked):
        kr.export_saved_model(model, tmp_path / "1", guard=guard)
    assert list(tmp_path.iterdir()) == []
    size = len(keras.tree.flatten(x)[0])
    path = kr.export_saved_model(model, tmp_path / "1", guard=guard, data=(x, np.zeros(size, int)))
    found = warmup_log.replay(path)
    assert found["others_equal"] and found["largest_difference"] < 1e-5
    assert found["compared"] == found["requests"] == 4
