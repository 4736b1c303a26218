"""JAX: what the machine computes faster than float32, and by which way."""

import contextlib

import jax

# Compute capabilities from which GPUs have tensor cores for a dtype.
_GPU_SINCE = {"bfloat16": (8, 0), "float16": (7, 0)}


def fast_dtype():
    """Returns the half precision in which this machine gains speed, or `None`.

    With GPUs, the best dtype that all of them multiply in tensor cores; `"bfloat16"` on TPUs; on
    CPUs `None`, for which XLA computes bfloat16 in float32.
    """
    devices = jax.devices()
    if devices[0].platform == "tpu":
        return "bfloat16"
    if devices[0].platform != "gpu":
        return None
    weakest = min(map(_capability, devices))
    return next((name for name, since in _GPU_SINCE.items() if weakest >= since), None)


def _capability(device):
    """Returns the compute capability of a GPU, a tuple, which those of AMD do not have."""
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    return tuple(map(int, numbers)) if all(map(str.isdecimal, numbers)) else (0, 0)


def fast_input_gradients(model):
    """Returns the context in which input gradients of `model` take a shorter way: XLA's own."""
    return contextlib.nullcontext()
