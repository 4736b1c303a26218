"""What hardening costs where a model is served: predictions per second, and latency.

    python -m benchmarks.serving --rounds=30

Exports a network after some steps of adversarial training, with the guard in front, and its twin
after plain training, without one; and the twin with a guard, to tell what the guard alone costs.
All are loaded as a server loads them, and take turns in one process, a call each, so that noise
hits all of them. The cost is the median ratio of processor time, which other programs on the
machine disturb least. No HTTP is in between: that would hide the difference. Speed does not depend
on the weights, so that the training is short.
"""

import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

import keras_robust as kr
from benchmarks import results
from benchmarks import turns

_ROUNDS = flags.DEFINE_integer("rounds", 30, "Turns of each contestant and batch size.")
_CALLS = flags.DEFINE_integer("calls", 10, "Calls in a turn; their mean is one measurement.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write, or none.")

_BATCH_SIZES = (1, 32, 256)
_UNDEFENDED, _GUARDED, _HARDENED = "undefended", "undefended, guarded", "hardened, guarded"


def export_all(folder):
    """Returns the signatures of the contestants by name, and what keeps their variables alive."""
    x = np.random.default_rng(0).uniform(size=(128, 28, 28, 1)).astype("float32")
    y = np.arange(128) % 10
    plain, hardened = turns.build(), turns.build()
    plain.fit(x, y, verbose=0)
    hardened.fit(x, y, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1))])
    guard = kr.layers.InputGuard((0, 1))
    contestants = {
        _UNDEFENDED: (plain, None),
        _GUARDED: (plain, guard),
        _HARDENED: (hardened, guard),
    }
    loaded = [
        tf.saved_model.load(str(kr.export_saved_model(model, f"{folder}/{number}", guard=one)))
        for number, (model, one) in enumerate(contestants.values())
    ]
    signatures = [one.signatures["serving_default"] for one in loaded]
    return dict(zip(contestants, signatures, strict=True)), loaded


def measure(signatures, size):
    """Returns lists of seconds a call, on the clock and of processors, by name."""
    x = tf.random.uniform((size, 28, 28, 1), seed=0)
    seconds = {name: [] for name in signatures}
    for number in range(_ROUNDS.value + 1):
        # Who comes after whom changes, because the caches do.
        names = list(signatures)[number % 3 :] + list(signatures)[: number % 3]
        for name in names:
            start = np.array([time.perf_counter(), time.process_time()])
            for _ in range(_CALLS.value):
                (key,) = signatures[name].structured_input_signature[1]
                signatures[name](**{key: x})["label"].numpy()
            end = np.array([time.perf_counter(), time.process_time()])
            seconds[name].append((end - start) / _CALLS.value)
    # The first round warms up.
    return {name: np.transpose(values[1:]) for name, values in seconds.items()}


def main(_):
    logging.set_verbosity(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        signatures, _loaded = export_all(folder)
        for size in _BATCH_SIZES:
            seconds = measure(signatures, size)
            for name, (clock, processor) in seconds.items():
                ratios = processor / seconds[_UNDEFENDED][1]
                rows.append(
                    {
                        "batch_size": size,
                        "model": name,
                        "milliseconds": 1e3 * float(np.median(clock)),
                        "predictions_per_second": size / float(np.median(clock)),
                        "cost_percent": 100.0 * (float(np.median(ratios)) - 1.0),
                    }
                )
                print(
                    "{batch_size:4} {model:20} {milliseconds:8.3f} ms"
                    " {predictions_per_second:9.0f}/s {cost_percent:+6.1f}%".format(**rows[-1])
                )
    if _OUTPUT.value is not None:
        results.save(_OUTPUT.value, {"rows": rows})


if __name__ == "__main__":
    app.run(main)
