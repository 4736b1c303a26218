"""Results of benchmarks in JSON files, to which a run that was cut off is added."""

import json
import os
import pathlib
import platform


def load(path, settings, *, fresh=False):
    """Returns what the file has, if it was made with these settings, and else an empty result."""
    path = pathlib.Path(path)
    if path.exists() and not fresh:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("settings") == settings:
            return result
    return {"settings": settings, "rows": {}}


def save(path, result):
    """Writes a result with what there is to know about the machine."""
    flags = _cpu_line("flags").split()
    machine = {
        "cores": os.cpu_count(),
        "processor": _cpu_line("model name") or platform.machine(),
        "flags": [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, "machine": machine}, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def _cpu_line(name):
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
