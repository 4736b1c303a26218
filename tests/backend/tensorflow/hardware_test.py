import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust.backend.tensorflow import hardware


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Returns a function that simulates a machine: the flags of its CPU, and its GPUs."""

    def make(flags=None, gpus=()):
        path = tmp_path / "cpuinfo"
        if flags is not None:
            path.write_text(f"processor: 0\nflags\t\t: fpu {flags} avx\n\nprocessor: 1\n")
        monkeypatch.setattr(hardware, "_CPU_INFO", path)
        found = dict(enumerate(gpus))
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(found))
        monkeypatch.setattr(tf.config.experimental, "get_device_details", found.get)

    return make


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx512_bf16", "bfloat16"),
        ("sse amx_bf16 amx_tile", "bfloat16"),
        ("avx512f avx512_vnni", None),
        (None, None),
    ],
)
def test_cpus(machine, flags, expected):
    machine(flags)
    assert backend.fast_dtype() == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0)], "bfloat16"),
        ([(8, 0), (8, 6)], "bfloat16"),
        ([(8, 0), (7, 5)], "float16"),
        ([(7, 0)], "float16"),
        ([(6, 1)], None),
        ([(9, 0), None], None),
    ],
)
def test_the_weakest_gpu_counts_and_the_cpu_does_not(machine, capabilities, expected):
    details = [{} if c is None else {"compute_capability": c} for c in capabilities]
    machine("avx512_bf16", details)
    assert backend.fast_dtype() == expected
