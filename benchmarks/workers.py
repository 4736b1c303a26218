"""Contestants in processes of their own that take turns, an epoch each."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PAUSE = 0.2  # Threads of the one before may still spin.


class Worker:
    """A process of `benchmarks.step_worker`.

    Args:
        spec: dict, what `benchmarks.step_worker` is to do.
        python: path of the interpreter of its environment.

    Attributes: `seconds` and `cpu_seconds`, of every epoch; `peak_mebibytes`, of the process, when
    it has ended; `versions`; `failure`, the end of what it printed if it ended before, or `None`.
    """

    def __init__(self, spec, python=sys.executable):
        self.spec = spec
        self.seconds, self.cpu_seconds = [], []
        self.peak_mebibytes, self.versions, self.failure = None, {}, None
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.step_worker", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self._take()

    def turn(self):
        """Has it run an epoch; does nothing if it failed."""
        if self.failure is not None:
            return
        time.sleep(_PAUSE)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self._take()

    def close(self):
        """Waits until it has ended, or ends it if it has epochs left."""
        if self.failure is None and len(self.seconds) == self.spec["epochs"]:
            self._take()
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _take(self):
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            self.failure = self._log.read()[-2000:]
            return
        facts = json.loads(line)
        for name in ("seconds", "cpu_seconds"):
            if name in facts:
                getattr(self, name).append(facts[name])
        self.versions = facts.get("versions", self.versions)
        self.peak_mebibytes = facts.get("peak_mebibytes", self.peak_mebibytes)


def race(specs, pythons, rounds):
    """Runs contestants in turn; the first epoch, in which they compile, is thrown away.

    Args:
        specs: dict from names to what `benchmarks.step_worker` is to do.
        pythons: dict from some names to interpreters.
        rounds: int, epochs that count.

    Returns:
        A dict from names to closed workers.
    """
    workers = {}
    try:
        for name, spec in specs.items():
            spec = {**spec, "epochs": rounds + 1}
            workers[name] = Worker(spec, pythons.get(name, sys.executable))
            workers[name].turn()
        for _ in range(rounds):
            for worker in workers.values():
                worker.turn()
    finally:
        for worker in workers.values():
            worker.close()
    for worker in workers.values():
        del worker.seconds[:1], worker.cpu_seconds[:1]
    return workers
