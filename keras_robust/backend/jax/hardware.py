"""JAX: the dtypes that the machine computes faster than float32."""

import contextlib

import jax

# The lowest compute capability of GPUs with tensor cores for a dtype.
_GPU_SINCE = {"bfloat16": (8, 0), "float16": (7, 0)}


def fast_dtype():
    """Returns the half precision dtype that is faster than float32 on this machine, or `None`.

    With GPUs, it is the best dtype that the tensor cores of all of them support. On TPUs it is
    `"bfloat16"`. On CPUs it is `None`, because XLA computes bfloat16 in float32 there.
    """
    devices = jax.devices()
    if devices[0].platform == "tpu":
        return "bfloat16"
    if devices[0].platform != "gpu":
        return None
    weakest = min(map(_capability, devices))
    return next((name for name, since in _GPU_SINCE.items() if weakest >= since), None)


def _capability(device):
    """Returns the compute capability of a GPU as a tuple; `(0, 0)` for a GPU of AMD."""
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    return tuple(map(int, numbers)) if all(map(str.isdecimal, numbers)) else (0, 0)


def fast_input_gradients(model):
    """Returns a context that does nothing: XLA optimizes input gradients itself."""
    return contextlib.nullcontext()
