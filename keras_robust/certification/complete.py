"""Certificates by branch and bound: a proof or a counterexample, if time allows."""

import keras
import numpy as np
from keras import ops

from keras_robust import attacks
from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification.branch_and_bound import BranchAndBound
from keras_robust.certification.crown import AlphaCrown
from keras_robust.certification.input_region import InputRegion
from keras_robust.certification.linear_bounds import LinearBounds
from keras_robust.certification.model_checks import SLACK
from keras_robust.certification.model_checks import check_precision
from keras_robust.certification.model_checks import check_shape
from keras_robust.certification.radii import check_radius
from keras_robust.certification.radii import with_progress
from keras_robust.configurable import short_repr
from keras_robust.evaluation.outcomes import PROVED
from keras_robust.layers.input_transformation import check_count
from keras_robust.threat_models.parsing import parse_bounds

_MOST = 10**6


@keras.saving.register_keras_serializable(package="keras_robust")
class Complete(Certificate):
    """Decides at one radius in Linf, for a ReLU network, whether the prediction can change.

    For each example, the first of these that succeeds gives the answer:

    1. PGD on the margin, with restarts, finds a counterexample.
    2. `AlphaCrown` proves the radius.
    3. Branch and bound: a ReLU whose input may have either sign is split into two domains, in each
       of which it is a line. Alpha-CROWN with a Lagrange multiplier for each split (beta-CROWN)
       bounds the margins in each domain, and the bounds of later layers are computed anew. Domains
       with a margin below 0 are done. The point where the bound is reached is tried as a
       counterexample. The ReLU with the largest gap between its lines and itself is split next.
       Where all signs are known, a linear program is the exact answer.
    4. After a fifth of the time, mixed-integer programs (Tjeng et al., 2019), solved by HiGHS,
       tighten the intervals of the ReLUs behind the first ones, and then bound the margins. After
       four fifths, branch and bound starts again from these intervals.

    The radius of an example is `radius` if it is proved, else 0. `broken_radii` holds the distance
    of a counterexample. Every counterexample is judged in the float32 model, within the ball and
    the box in float32. What neither is found nor proved within the time limit is inconclusive, and
    so is a tie: a margin that reaches 0 up to rounding, where no point has another prediction.

    The proof holds up to rounding, as for `Crown`. The programs are scaled, and what the tolerances
    of HiGHS may hide is added to their bounds.

    Deviations from the papers: the ReLU to split is chosen by its gap alone, and the bounds of
    later layers are computed anew after every split. Cost: up to `time_limit` for an example.

    Args:
        radius: float above 0, or a string such as `"8/255"`, the radius to decide, in the units of
            the input; below the width of the box.
        bounds: pair `(low, high)`, the box of valid inputs, numbers or arrays with a number for
            each channel, or `None` for no box. Defaults to `(0.0, 1.0)`.
        time_limit: float above 0, the seconds that branch and bound may spend on an example. The
            last step may take a little longer. Defaults to `60.0`.
        chunk_size: int, as for `Crown`. Defaults to `1024`.
        num_domains: int, the number of domains that are split at a time. Defaults to `128`.

    Raises:
        ValueError: as for `Crown`; for a `radius` within which every point of the box is feasible;
            and in `certify` for a model with an activation other than ReLU
            and maxima, whatever comes before it.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> keras.utils.set_random_seed(0)
    >>> dense = keras.layers.Dense
    >>> model = keras.Sequential([keras.Input((4,)), dense(8, "relu"), dense(8, "relu"), dense(3)])
    >>> _ = model.layers[-1].bias.assign([0.1, 0.0, -0.1])  # Otherwise dead units give ties.
    >>> x = np.random.default_rng(0).uniform(size=(20, 4)).astype("float32")
    >>> found = kr.certification.Complete(0.1).certify(model, x)
    >>> print(np.all((found.radii == 0.1) ^ (found.broken_radii <= 0.1)))
    True

    References:
        - [Bunel et al., 2020](https://arxiv.org/abs/1909.06588)
        - [Tjeng et al., 2019](https://arxiv.org/abs/1711.07356)
        - [Wang et al., 2021](https://arxiv.org/abs/2103.06624)
    """

    norm = "Linf"

    def __init__(
        self, radius, *, bounds=(0.0, 1.0), time_limit=60.0, chunk_size=1024, num_domains=128
    ):
        check_numbers(time_limit=time_limit)
        self.bounds = parse_bounds(bounds)
        self.radius = _check_in_box(check_radius("radius", radius), self.bounds)
        self.time_limit = time_limit
        self.chunk_size = check_count("chunk_size", chunk_size, 1, _MOST)
        self.num_domains = check_count("num_domains", num_domains, 1, _MOST)

    def at_radius(self, radius, bounds):
        return self._with(radius=radius, bounds=bounds)

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        check_shape(model, x)
        check_precision(model)
        if not len(x):
            return CertificationResult(*(np.zeros(0, dtype) for dtype in ("int64", "float64")))
        with backend.double_precision():
            linear = LinearBounds(model, x.shape[1:], self.norm, self.chunk_size)
            search = BranchAndBound(linear, self.num_domains)
        logits = models.predict_logits(model, x, batch_size).astype("float64")
        labels = np.argmax(logits, axis=-1)
        points = self._attacked(model, x, labels, batch_size, seed)
        radii = np.zeros(len(x))
        with backend.double_precision():
            for start in with_progress(len(x), batch_size, verbose):
                rows = np.arange(start, min(start + batch_size, len(x)))
                rows = rows[_sizes(points[rows], x[rows]) == 0.0]
                radii[rows] = self._proved(linear, x[rows], labels[rows])
                for row in rows[radii[rows] == 0.0]:
                    judge = _Judge(model, x[row], labels[row], self._ball())
                    region = self._region(x[row : row + 1])
                    outcome, point = search.decide(
                        region, labels[row], SLACK, judge, self.time_limit
                    )
                    radii[row] = self.radius if outcome == PROVED else 0.0
                    points[row] = x[row] if point is None else point
        sizes = _sizes(points, x)
        # The distance in float32 may exceed the radius by a rounding error.
        broken = np.where(sizes > 0.0, np.minimum(sizes, self.radius), np.inf)
        return CertificationResult(labels, radii, broken, points)

    def _ball(self):
        return threat_models.Linf(self.radius, self.bounds)

    def _region(self, x):
        radii = ops.convert_to_tensor(np.full(len(x), float(self.radius)))
        return InputRegion.around(ops.convert_to_tensor(x.astype("float64")), radii, self.bounds)

    def _attacked(self, model, x, labels, batch_size, seed):
        """Returns the mistakes that an attack finds, and the examples where it finds none."""
        attack = attacks.PGD(num_steps=50, num_restarts=5, loss="margin")
        found = attack(model, x, labels, self._ball(), batch_size=batch_size, seed=seed)
        found = np.array(found)
        same = np.argmax(models.predict_logits(model, found, batch_size), axis=-1) == labels
        found[same] = x[same]
        return found

    def _proved(self, linear, x, labels):
        """Returns the radius for the examples where alpha-CROWN proves it, and 0 elsewhere."""
        if not len(x):
            return np.zeros(0)
        weaker = AlphaCrown(bounds=self.bounds, max_radius=self.radius, num_steps=0)
        proved = weaker.proves(linear, self._region(x), labels)
        return np.where(proved, float(self.radius), 0.0)


def _check_in_box(radius, bounds):
    """Returns the radius, if it is below the width of the box in every feature that changes."""
    width = np.inf if bounds is None else np.subtract(bounds[1], bounds[0])
    if np.any((width > 0.0) & (radius >= width)):
        raise ValueError(
            "Expected a `radius` below the width of the box, or every valid input is feasible. "
            "Give it in the units of `bounds`, such as '8/255' for inputs from 0 to 1. "
            f"Received: radius={radius}, bounds={short_repr(bounds)}"
        )
    return radius


def _sizes(points, x):
    """Returns the distances in Linf, float64 `(n,)`."""
    changes = np.abs(points.astype("float64") - x)
    return np.max(changes.reshape(len(changes), -1), axis=-1, initial=0.0)


class _Judge:
    """Finds a point that the model, in float32, gets wrong within the ball.

    Args:
        model: `keras.Model`.
        x: array, the example.
        label: int, its prediction.
        ball: `threat_models.Linf`.
    """

    def __init__(self, model, x, label, ball):
        self._model, self._x, self._label, self._ball = model, x, label, ball

    def __call__(self, points):
        """Returns the first wrong one of `points`, an array `(n, ...)`, or `None`."""
        if not len(points):
            return None
        x = np.broadcast_to(self._x, points.shape)
        moved = self._ball.project(
            *(ops.convert_to_tensor(part.astype("float32")) for part in (points, x))
        )
        predictions = np.argmax(models.predict_logits(self._model, np.asarray(moved)), axis=-1)
        wrong = np.nonzero(predictions != self._label)[0]
        return np.asarray(moved)[wrong[0]] if len(wrong) else None
