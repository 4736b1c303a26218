"""Every public object survives its config."""

import inspect
import json

import keras
import numpy as np
import pytest

from tests.support import cases

SAVED = [case for case in cases.all_cases() if hasattr(case[2], "get_config")]
every_case = pytest.mark.parametrize(("package", "name", "instance"), SAVED)


def revive(instance):
    text = json.dumps(keras.saving.serialize_keras_object(instance))
    return keras.saving.deserialize_keras_object(json.loads(text))


@every_case
def test_config_round_trip(package, name, instance):
    revived = revive(instance)
    assert type(revived) is type(instance)
    assert json.dumps(keras.saving.serialize_keras_object(revived)) == json.dumps(
        keras.saving.serialize_keras_object(instance)
    )


@every_case
def test_config_names_every_constructor_argument(package, name, instance):
    arguments = {
        key
        for key, parameter in inspect.signature(type(instance).__init__).parameters.items()
        # Keras losses keep their `dtype` out of the config where it is the default.
        if key not in ("self", "dtype")
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    assert set(instance.get_config()) >= arguments


@every_case
def test_objects_are_registered_under_the_package(package, name, instance):
    registered = keras.saving.get_registered_name(type(instance))
    assert registered == f"keras_robust>{type(instance).__name__}"


@pytest.mark.parametrize("package", ["attacks", "threat_models", "objectives"])
def test_repr_names_the_class_and_its_arguments(package):
    for instance in cases.CASES[package].values():
        text = repr(instance)
        assert text.startswith(f"{type(instance).__name__}(")
        for key, value in instance.get_config().items():
            plain = isinstance(value, (int, float, str)) or value is None
            assert (f"{key}={value!r}" if plain else f"{key}=") in text


def test_arrays_come_back_as_they_were():
    threat_model = cases.CASES["threat_models"]["Linf-channels"]
    revived = revive(threat_model)
    np.testing.assert_array_equal(revived.epsilon, threat_model.epsilon)
    for bound, expected in zip(revived.bounds, threat_model.bounds, strict=True):
        np.testing.assert_array_equal(bound, expected)


def test_a_schedule_comes_back_as_a_schedule():
    revived = revive(cases.CASES["threat_models"]["Linf-schedule"])
    assert float(revived.at(10).radius) == pytest.approx(0.05)
