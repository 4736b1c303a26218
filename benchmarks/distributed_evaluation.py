"""Time of one evaluation by one worker and by two, each with one thread, in turn.

    python -m benchmarks.distributed_evaluation

PGD on random 28 x 28 images, by `kr.evaluation.distribute`. The workers of one Ray cluster stay
between the rounds, and a first round, in which they start, is thrown away; each evaluation loads
and compiles the model. The result has the median seconds, the median of the ratios within a round,
and whether both reports are equal but for the seconds. Needs the extra `ray` and two free cores;
takes about ten minutes, and writes benchmarks/results/distributed_evaluation.json.
"""

import os
import statistics
import time

import keras
import numpy as np
import ray
from absl import app
from absl import flags

import keras_robust as kr
from apps import models
from benchmarks import results

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Evaluations of each kind that count.")
_EXAMPLES = flags.DEFINE_integer("examples", 512, "Images.")
_STEPS = flags.DEFINE_integer("steps", 200, "Steps of PGD.")
_OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/distributed_evaluation.json", "File for the result."
)
_PROVISIONAL = flags.DEFINE_bool("provisional", False, "Say that other jobs shared the machine.")
_WORKERS = (1, 2)


def _evaluate(network, data, workers):
    """Returns the seconds of an evaluation, and its report without seconds as a dict."""
    start = time.perf_counter()
    report = kr.evaluation.distribute(
        network,
        data,
        kr.Linf(0.01),
        kr.attacks.PGD(num_steps=_STEPS.value, num_restarts=2),
        workers=workers,
        minimum_norm=None,
        batch_size=64,
    )
    seconds = time.perf_counter() - start
    fields = report.to_dict()
    for part in (fields, *fields["attacks"]):
        del part["seconds"]
    return seconds, fields


def main(_):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).uniform(size=(_EXAMPLES.value, 28, 28, 1)).astype("float32")
    network = models.small_cnn((28, 28, 1), 10)
    y = np.argmax(network.predict(x, verbose=0), axis=-1)
    ray.init(num_cpus=max(_WORKERS), include_dashboard=False, log_to_driver=False)
    seconds, equal = {workers: [] for workers in _WORKERS}, True
    for turn in range(_ROUNDS.value + 1):
        found = {workers: _evaluate(network, (x, y), workers) for workers in _WORKERS}
        equal = equal and found[1][1] == found[2][1]
        for workers, (taken, _) in found.items():
            print(f"round {turn}, {workers} workers: {taken:.1f} s", flush=True)
            # The first round starts the processes.
            if turn:
                seconds[workers].append(round(taken, 2))
    ray.shutdown()
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    names = ("rounds", "examples", "steps")
    result = {
        "settings": {name: flags.FLAGS[name].value for name in names},
        "is_provisional": _PROVISIONAL.value,
        "load_average": round(os.getloadavg()[1], 1),
        "seconds": seconds,
        "median_seconds": {workers: statistics.median(all_) for workers, all_ in seconds.items()},
        "speedup": round(statistics.median(ratios), 2),
        "reports_are_equal": equal,
    }
    print(f"{result['speedup']} times as fast with two workers; equal reports: {equal}")
    results.save(_OUTPUT.value, result)


if __name__ == "__main__":
    app.run(main)
