"""Verification of a SavedModel against its Keras model: predictions, and robustness."""

import json
import os
import subprocess
import sys

import numpy as np
import tensorflow as tf
from keras import ops

from keras_robust import attacks
from keras_robust import backend
from keras_robust.evaluation import BlackBox
from keras_robust.evaluation import evaluate
from keras_robust.export import warmup_log
from keras_robust.export.archive import from_tf_function
from keras_robust.export.prediction_function import PredictionFunction
from keras_robust.export.prediction_function import seed_of_the_system

# A server has no Keras. With the import of Keras blocked, a SavedModel that needs Keras fails here.
_BLOCK = (
    "import runpy, sys; sys.modules['keras'] = sys.modules['keras_robust'] = None; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
_TOLERANCE = 1e-4


def replay_in_fresh_process(path):
    """Replays the warmup requests in a new process in which Keras cannot be imported.

    Args:
        path: str, the folder of a SavedModel.

    Returns:
        The dict that `warmup_log.replay` returns, with the difference from the answers of Keras.

    Raises:
        ValueError: if the process fails, or if the answers differ.
    """
    command = [sys.executable, "-c", _BLOCK, warmup_log.__file__, str(path)]
    # Without the log of TensorFlow, the last line of stderr is the cause of a failure.
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            "The SavedModel must work without Keras. Received: "
            f"path={str(path)!r}, which fails with {last}"
        )
    # Libraries may print to stdout before the result.
    found = json.loads(done.stdout.splitlines()[-1])
    # Written as `not <=` so that NaN fails.
    if not found["others_equal"] or not found["largest_difference"] <= _TOLERANCE:
        raise ValueError(
            "The SavedModel must answer its warmup requests like Keras. "
            f"Received: path={str(path)!r} with {found}"
        )
    return found


def compare_robustness(path, model, data, threat_model, suite=None, **arguments):
    """Runs the same attacks on a SavedModel and on the model in memory, and returns the reports.

    White-box attacks use the signature `logits`. Black-box attacks, which only see scores, use
    `serving_default`. Both models get the same random numbers.

    Args:
        path: str, the folder of a SavedModel with one input.
        model: the `keras.Model` that was exported.
        data: `(x, y)` arrays.
        threat_model: `ThreatModel`.
        suite: list of white-box attacks. Defaults to `None`, PGD with 50 steps on two losses.
        **arguments: further arguments of `evaluate`, for example `num_examples` and `seed`.

    Returns:
        dict with the keys `"white-box"` and `"black-box"`. Each value is a dict from
        `"in memory"` and `"served"` to a `RobustnessReport`.
    """
    loaded = tf.saved_model.load(str(path))
    suite = suite or [attacks.PGD(num_steps=50, loss=loss) for loss in ("cross_entropy", "margin")]
    num_classes = loaded.signatures["logits"].output_shapes["logits"][-1]

    served = from_tf_function(lambda x: _only(loaded.signatures["logits"], x)["logits"])

    def served_scores(x):
        return _log(_only(loaded.signatures["serving_default"], x)["probabilities"])

    in_memory_answers = backend.compile_function(PredictionFunction(model))

    def scores(x):
        seed = ops.convert_to_tensor(np.asarray(seed_of_the_system()))
        return _log(in_memory_answers(ops.convert_to_tensor(x), seed)[1])

    # Four bars without a name would say nothing.
    arguments = {"minimum_norm": None, "verbose": False, **arguments}
    pairs = {
        "white-box": (suite, model, served),
        "black-box": (
            [attacks.Square(num_queries=200)],
            BlackBox(scores, num_classes),
            BlackBox(served_scores, num_classes),
        ),
    }
    return {
        kind: {
            place: evaluate(one, data, threat_model, chosen, **arguments)
            for place, one in (("in memory", in_memory), ("served", other))
        }
        for kind, (chosen, in_memory, other) in pairs.items()
    }


def _only(signature, x):
    ((_, inputs),) = [signature.structured_input_signature]
    ((name, spec),) = inputs.items()
    return signature(**{name: tf.cast(x, spec.dtype)})


def _log(probabilities):
    return np.log(np.maximum(np.asarray(probabilities), 1e-30))
