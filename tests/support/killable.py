"""A linear model that stops, or is killed, after so many passes, and an evaluation of it."""

import os
import signal

import keras
import numpy as np

import keras_robust as kr
from tests.support import backends

WEIGHTS = np.random.default_rng(5).normal(size=(4, 3)).astype("float32")
X = np.random.default_rng(1).uniform(size=(8, 4)).astype("float32")
Y = (X @ WEIGHTS).argmax(-1)
Y[3] = (Y[3] + 1) % 3
BALL = kr.Linf(0.1)


class Killable:
    """The model, which counts its passes.

    Args:
        passes: int, after which it fails; `None` for never.
        dies: bool, whether it takes the process with it.
    """

    def __init__(self, passes=None, dies=False):
        self.passes, self.dies, self.count = passes, dies, 0

    def __call__(self, x):
        # The host computes the value, and the framework the gradient.
        slope = keras.ops.matmul(x, WEIGHTS)
        value = kr.backend.host_function(self._compute, keras.ops.stop_gradient(x), 3)
        return value + (slope - keras.ops.stop_gradient(slope))

    def _compute(self, x):
        self.count += 1
        if self.passes is not None and self.count > self.passes:
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("killed")
        return x @ WEIGHTS


def evaluate(model, **arguments):
    """Evaluates the model in batches of three by all kinds of turns."""
    suite = [
        kr.attacks.PGD(num_steps=3, num_restarts=2, loss=kr.losses.margin),
        kr.attacks.Square(num_queries=10),
    ]
    arguments = {"batch_size": 3, "minimum_norm": kr.attacks.FMN(num_steps=4), **arguments}
    return kr.evaluate(model, (X, Y), BALL, suite, **arguments)


def assert_same(report, expected):
    """Says where two reports differ in anything but the time."""
    plain, wanted = _timeless(report), _timeless(expected)
    assert plain == wanted
    for name in ("x", "y", "x_adv", "logits", "adv_logits", "distances"):
        np.testing.assert_array_equal(getattr(report, name), getattr(expected, name))
    for one, other in zip(report.attacks, expected.attacks, strict=True):
        np.testing.assert_array_equal(one.robust, other.robust)


def _timeless(report):
    plain = report.to_dict()
    for part in (plain, *plain["attacks"]):
        assert part.pop("seconds") > 0.0
    return plain


def main(path, passes):
    """Starts an evaluation that kills its process."""
    backends.optimize_less()
    kr.evaluation.checkpoint.SECONDS = 0.0
    evaluate(Killable(passes, dies=True), checkpoint=path)
