import json

import keras
import pytest

import keras_robust as kr
from keras_robust.threat_models import from_untrusted_config
from tests.support import tiers

MODELS = {
    "fraction": kr.Linf("8/255"),
    "box": kr.L2(0.5, bounds=([0.0, -1.0], 3.0)),
    "features": kr.Linf([0.1, 0.2], bounds=None),
    "pixels": kr.threat_models.L0(3),
    "several": kr.threat_models.PerInput({"a": "linf", "b": kr.L1(2.0, bounds=None)}),
    "a list": kr.threat_models.PerInput([None, kr.Linf(0.1)]),
    "joint": kr.threat_models.Joint(kr.L2(1.0), ["a", "b"], [(0, 2), None]),
    "layer": kr.threat_models.AtLayer("embedding", kr.L2(1.0, bounds=None)),
}


@tiers.parametrize("name", MODELS)
def test_a_config_is_reconstructed(name):
    threat_model = MODELS[name]
    plain = json.loads(json.dumps(threat_model.get_config()))
    found = from_untrusted_config(type(threat_model).__name__, plain)
    assert type(found) is type(threat_model)
    assert found.get_config() == plain


@pytest.mark.parametrize("name", ["PGD", "linf", "Popen", "keras_robust>Linf", "", None, 3])
def test_other_classes_are_unknown(name):
    assert from_untrusted_config(name, {}) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epsilon": "many"}, "Expected the arguments of Linf. Received: ValueError: .*many"),
        ({"radius": 0.1}, "Expected the arguments of Linf. Received: TypeError: .*radius"),
        ({"epsilon": {"a": 1}}, "Expected the arguments of Linf"),
        ([], "Expected the arguments of Linf. Received: AttributeError"),
        ({"epsilon": "x" * 10**6}, "Expected the arguments of Linf.{0,400}$"),
    ],
)
def test_other_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        from_untrusted_config("Linf", config)


def test_only_threat_models_are_constructed():
    made = []

    @keras.saving.register_keras_serializable(package="tests")
    class Trap:
        def __init__(self):
            made.append(self)

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    trap = {"module": None, "class_name": "Trap", "config": {}, "registered_name": "tests>Trap"}
    assert isinstance(keras.saving.deserialize_keras_object(trap), Trap) and len(made) == 1
    for config in ({"epsilon": trap}, {"epsilon": 0.1, "bounds": [0, trap]}):
        with pytest.raises(
            ValueError, match="Expected a threat model of this package. Received: the class 'Trap'"
        ):
            from_untrusted_config("Linf", config)
    with pytest.raises(
        ValueError, match="Expected a threat model of this package. Received: the class 'Trap'"
    ):
        from_untrusted_config("PerInput", {"parts": {"a": trap}})
    assert len(made) == 1
