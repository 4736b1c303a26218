import types

import jax
import pytest

from keras_robust.backend.jax import hardware


@pytest.mark.parametrize(
    ("devices", "dtype"),
    [
        ([("cpu", None)], None),
        ([("tpu", None)], "bfloat16"),
        ([("gpu", "8.0"), ("gpu", "9.0")], "bfloat16"),
        ([("gpu", "7.5"), ("gpu", "9.0")], "float16"),
        ([("gpu", "6.1")], None),
        ([("gpu", "gfx90a")], None),
        ([("gpu", None)], None),
    ],
)
def test_the_fast_dtype_of_all_devices(devices, dtype, monkeypatch):
    made = [
        types.SimpleNamespace(platform=kind, **({"compute_capability": own} if own else {}))
        for kind, own in devices
    ]
    monkeypatch.setattr(jax, "devices", lambda: made)
    assert hardware.fast_dtype() == dtype


def test_gradients_at_first_layers_are_those_of_xla():
    with hardware.fast_input_gradients(None):
        pass
