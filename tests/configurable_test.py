import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.configurable import Configurable
from keras_robust.configurable import fingerprint
from keras_robust.configurable import from_config_value
from keras_robust.configurable import required_arguments
from keras_robust.configurable import short_repr
from keras_robust.configurable import to_config_value
from tests.support import backends

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


class Pair(Configurable):
    def __init__(self, first, *args, second="b", **kwargs):
        self.first = first
        self.second = second


def test_config_and_repr_are_the_arguments_of_the_constructor():
    pair = Pair(kr.Linf(0.5), 7, second=(1, 2), third=3)
    assert repr(pair) == "Pair(first=Linf(epsilon=0.5, bounds=(0.0, 1.0)), second=(1, 2))"
    assert pair.get_config()["second"] == [1, 2]
    back = Pair.from_config(json.loads(json.dumps(pair.get_config())))
    assert repr(back) == "Pair(first=Linf(epsilon=0.5, bounds=[0.0, 1.0]), second=[1, 2])"


def test_numbers_are_shown_as_numbers_and_traced_tensors_by_shape():
    tensor = keras.ops.convert_to_tensor(np.float32(0.1))
    for epsilon in (np.float32(0.1), np.array(0.1, "float32"), tensor):
        assert short_repr({"epsilon": epsilon, "n": [np.int64(2)]}) == "{'epsilon': 0.1, 'n': [2]}"
    assert short_repr(keras.ops.ones((20,))) == short_repr(np.ones(20, "float32"))
    seen = []

    def note(x):
        seen.append(repr(kr.L2(0.5).with_epsilon(x)))
        return x

    backends.traced(note)(tensor)
    assert seen[0] == "L2(epsilon=<tensor of shape () and dtype float32>, bounds=(0.0, 1.0))"


def test_required_arguments_have_no_default():
    assert required_arguments(Pair) == ["first"]
    assert required_arguments(kr.objectives.ARD) == ["teacher"]
    assert required_arguments(kr.attacks.PGD) == []


def test_a_fingerprint_separates_different_values():
    found = fingerprint({"pair": Pair(kr.Linf(SCHEDULE), second=[np.float32(0.5), np.arange(2)])})
    assert json.loads(json.dumps(found)) == found
    assert found["pair"]["class"] == "Pair"
    assert found["pair"]["first"]["bounds"] == [0.0, 1.0]
    assert found["pair"]["first"]["epsilon"]["class"] == "ExponentialDecay"
    assert found["pair"]["first"]["epsilon"]["decay_rate"] == 0.5
    assert found["pair"]["second"] == [0.5, [0, 1]]


def test_the_fingerprint_of_a_model_or_function_is_its_type():
    found = fingerprint(Pair(keras.Sequential([keras.layers.Dense(2)]), second=lambda: None))
    assert found == {"class": "Pair", "first": "Sequential", "second": "function"}


def test_plain_values_round_trip():
    given = {
        "parts": {"a": kr.Linf("8/255", None), "b": [None, kr.L2(0.5, None)]},
        "epsilon": SCHEDULE,
        "array": np.array([1.0, 2.0]),
        "number": np.float32(0.5),
        "bounds": (0, 1),
        "name": "x",
    }
    back = from_config_value(json.loads(json.dumps(to_config_value(given))))
    assert repr(back["parts"]) == repr(given["parts"])
    assert float(back["epsilon"](10)) == pytest.approx(0.05)
    assert (back["array"], back["number"]) == ([1.0, 2.0], 0.5)
    assert (back["bounds"], back["name"]) == ([0, 1], "x")
