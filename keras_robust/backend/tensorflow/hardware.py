"""TensorFlow: the dtypes that the machine computes faster than float32."""

import pathlib

import tensorflow as tf

_CPU_INFO = pathlib.Path("/proc/cpuinfo")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
# The lowest compute capability of GPUs with tensor cores for a dtype.
_GPU_SINCE = {"bfloat16": (8, 0), "float16": (7, 0)}


def fast_dtype():
    """Returns the half precision dtype that is faster than float32 on this machine, or `None`.

    With GPUs, it is the best dtype that the tensor cores of all of them support; otherwise it is
    `"bfloat16"` on a CPU with AVX512-BF16 or AMX.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return "bfloat16" if _CPU_FLAGS & _cpu_flags() else None
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    weakest = min(detail.get("compute_capability", (0, 0)) for detail in details)
    return next((name for name, since in _GPU_SINCE.items() if weakest >= since), None)


def _cpu_flags():
    try:
        text = _CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return set()
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    return set(lines[0].split()) if lines else set()
