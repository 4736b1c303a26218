"""Random combinations of model, loss, labels, data, threat model, objective and attack.

    python -m benchmarks.fuzz --minutes=10

Each case trains one epoch of two small batches and evaluates four examples, or is refused with an
error of ours: a ValueError or TypeError that says "Received:". What else comes out is a bug, and is
printed with its case. What Keras refuses before it has called any callback is not ours. Needs
hypothesis: the extra `test`. Fails if it found anything.
"""

import pathlib

from absl import app
from absl import flags

from benchmarks import fuzz_cases
from benchmarks import results

_MINUTES = flags.DEFINE_float("minutes", 10.0, "How long to look.")
_SEED = flags.DEFINE_integer("seed", 0, "Another seed gives other cases.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "fuzz.json"), "JSON file."
)


def main(_):
    counts, failures = fuzz_cases.search(60.0 * _MINUTES.value, _SEED.value)
    print(dict(counts))
    result = {
        "command": f"python -m benchmarks.fuzz --minutes={_MINUTES.value:g} --seed={_SEED.value}",
        "cases": dict(counts),
        "failures": failures,
    }
    results.save(_OUTPUT.value, result)
    if failures:
        raise SystemExit(f"error: {len(failures)} kinds of failures")


if __name__ == "__main__":
    app.run(main)
