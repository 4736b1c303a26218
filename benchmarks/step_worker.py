"""One contestant of `benchmarks.training_step`, in a process that waits for its turns.

    python -m benchmarks.step_worker '{"contestant": "fit", "epochs": 3, ...}'

Every line on standard input starts an epoch; a line of JSON with its seconds comes back. It needs
nothing but what the contestant needs, so that it runs in the environments of the peers.
"""

import importlib
import json
import os
import resource
import sys
import time

import numpy as np


class Turn:
    """Waits for the start of an epoch, and tells how long it took."""

    def __init__(self, answers):
        self._answers = answers
        self._start = None

    def wait(self):
        if not sys.stdin.readline():
            sys.exit()
        self._start = time.perf_counter(), time.process_time()

    def done(self):
        wall, cpu = self._start
        self.tell(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)

    def tell(self, **facts):
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()


def images(steps, batch_size, size):
    """Returns random images `(n, size, size, 1)` in [0, 1] with random labels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(steps * batch_size, size, size, 1)).astype("float32")
    return x, rng.integers(0, 10, size=len(x))


def main(text):
    spec = json.loads(text)
    # Libraries print; the answers keep standard output to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    turn = Turn(answers)
    module = importlib.import_module(f"benchmarks.contestants.{spec['contestant']}")
    turn.tell(versions=module.versions())
    module.run(spec, images(spec["steps"], spec["batch_size"], spec["size"]), turn)
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    turn.tell(peak_mebibytes=kibibytes / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
