"""Results of benchmarks in JSON files, to which a run that was cut off is added."""

import importlib.metadata
import json
import os
import pathlib
import platform

_LIBRARIES = ("keras", "tensorflow", "jax", "numpy")


def load(path, settings, *, fresh=False):
    """Returns what the file has, or an empty result: a dict with `settings` and `rows`.

    Raises:
        ValueError: for a file of other settings.
    """
    path = pathlib.Path(path)
    if fresh or not path.exists():
        return {"settings": settings, "rows": {}}
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("settings") != settings:
        raise ValueError(
            f"{path} has results of other settings: give another --output, or delete it. "
            f"Received: {settings}, where the file has {result.get('settings')}"
        )
    return result


def save(path, result):
    """Writes a result with what there is to know about the machine, all of it or nothing."""
    flags = _cpu_line("flags").split()
    machine = {
        "cores": os.cpu_count(),
        "processor": _cpu_line("model name") or platform.machine(),
        "flags": [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**result, "machine": machine, "versions": _versions()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _versions():
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_line(name):
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
