"""Exact robustness of linear models."""

import typing

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.data import check_classes
from keras_robust.attacks.data import check_examples
from keras_robust.calls import with_argument_advice
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification import affine
from keras_robust.certification.model_checks import SLACK
from keras_robust.certification.model_checks import check_precision
from keras_robust.certification.radii import LARGEST
from keras_robust.certification.radii import check_norm
from keras_robust.certification.radii import largest_radii
from keras_robust.layers.input_transformation import check_count
from keras_robust.threat_models.parsing import parse_bounds


class Exact(typing.NamedTuple):
    """The exact robustness of each example.

    Fields: `robust`, bool `(n,)`, whether the model is right on every feasible input; `margin`,
    float `(n,)`, the largest wrong logit minus the true one at the worst feasible input: below 0 if
    robust.
    """

    robust: np.ndarray
    margin: np.ndarray


@with_argument_advice
def exact_linear(model, x, y, threat_model="linf", *, batch_size=256):
    """Returns the exact robustness of a linear model on every example, without an attack.

    A model with logits `z_j(x) = <w_j, x> + b_j` is right on the whole feasible set if and only if
    `z_j(x) - z_y(x) + max <w_j - w_y, delta> < 0` for every wrong class `j`. Without a box the
    maximum is `epsilon ||w_j - w_y||_q`, where `q` is the dual norm; with a box it is also computed
    exactly. `robust.mean()` is the exact robust accuracy: no attack can reach a lower one.

    Deviations from the textbook: none, up to the rounding of float32; a tie counts as not robust.

    Args:
        model: a `keras.Model`, or a callable that returns logits, which are affine in the input:
            Dense without activation, Flatten, Rescaling, Normalization.
        x: float array `(n, ...)`, within the bounds of the threat model.
        y: class indices `(n,)` or one-hot rows `(n, num_classes)`.
        threat_model: a `ThreatModel` or its name. Defaults to `"linf"`.
        batch_size: int. Does not change the result. Defaults to `256`.

    Returns:
        `Exact`, with NumPy arrays `robust` and `margin`.

    Raises:
        ValueError: for a model that is not affine or in half precision; for empty, non-finite or
            out-of-bounds inputs; and for labels that are not classes.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.2, 0.8], [0.4, 0.5], [0.9, 0.1]], "float32"), np.array([1, 1, 0])
    >>> found = kr.certification.exact_linear(lambda x: x, x, y, kr.Linf(0.1))
    >>> print(found.robust, np.round(found.margin, 2))
    [ True False  True] [-0.4  0.1 -0.6]

    References:
        - [Xu et al., 2009](https://www.jmlr.org/papers/v10/xu09b.html)
    """
    threat_model = threat_models.get(threat_model)
    x, y = check_examples(x, y, threat_model)
    affine_model = _AffineModel(model, x, threat_model, batch_size)
    labels = check_classes(y, affine_model.logits.shape[-1])
    margin = affine_model.worst_margin(labels, threat_model)
    return Exact(margin < 0.0, margin)


class _AffineModel:
    """A linear model on the examples of a data set.

    Args:
        model: a model or a callable, as in `exact_linear`.
        x: array, the examples.
        threat_model: a `ThreatModel`; `worst_margin` may use another radius.
        batch_size: int.

    Attributes: `logits`, array `(n, num_classes)`; `slopes`, tensor `(num_classes, ...)`.
    """

    def __init__(self, model, x, threat_model, batch_size):
        check_precision(model)
        # The closed form is wrong for other models, so fail before it is used.
        affine.check_affine(model, x.shape[1:], threat_model, x=x)
        self.logits = models.predict_logits(model, x, batch_size)
        self.slopes = affine.slopes(models.Classifier(model), ops.convert_to_tensor(x[:1]))
        self._x, self._batch_size = x, batch_size

        def worst(logits, slopes, x, labels, epsilon):
            ball = threat_model.with_epsilon(epsilon)
            margins = affine.worst_margins(logits, slopes, x, labels, ball)
            # The margin of the true class is always 0, so it must not decide.
            own = ops.one_hot(labels, logits.shape[-1], dtype="bool")
            return ops.max(ops.where(own, -np.inf, margins), axis=-1)

        self._worst = backend.compile_function(worst)

    def worst_margin(self, labels, threat_model):
        """Returns the largest margin of a wrong class on the feasible set, an array `(n,)`."""
        margins = []
        for start in range(0, len(self._x), self._batch_size):
            rows = np.arange(start, min(start + self._batch_size, len(self._x)))
            parts = self.logits[rows], self.slopes, self._x[rows], labels[rows]
            epsilon = threat_model.epsilon_for_rows(rows, self._x)
            arguments = map(ops.convert_to_tensor, (*parts, epsilon))
            margins.append(ops.convert_to_numpy(self._worst(*arguments)))
        return np.concatenate(margins)


@keras.saving.register_keras_serializable(package="keras_robust")
class Linear(Certificate):
    """Computes the exact distance of each example to the nearest mistake of a linear model.

    Without a box it is `min_j (z_y - z_j) / ||w_y - w_j||_q`, where `q` is the dual norm. With a
    box, bisection finds the largest radius at which `exact_linear` returns robust, or the size of
    the box if no valid input is a mistake. The radius is exact, not only a lower bound: there is a
    mistake just outside of it. The proof holds up to rounding, as for `Crown`: every gap
    `z_y - z_j` counts as smaller by 1e-6 of the largest logit.

    Deviations from the textbook: that slack, because the model runs in float32. Cost: one forward
    pass, and with a box one maximization for each bisection and class.

    Args:
        norm: `"L1"`, `"L2"` or `"Linf"`. Defaults to `"Linf"`.
        bounds: pair `(low, high)`, the box of valid inputs, numbers or arrays with a number for
            each channel, or `None` for no box. Defaults to `(0.0, 1.0)`.
        num_steps: int, the number of bisections with a box. Defaults to `25`.

    Raises:
        ValueError: for another norm; in `certify` for a model that is not affine, or has layers in
            half precision.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> method = kr.certification.Linear("L2", bounds=None)
    >>> x = np.array([[0.9, 0.1]], "float32")
    >>> print(np.round(method.certify(lambda x: x, x).radii, 3))
    [0.566]

    References:
        - [Xu et al., 2009](https://www.jmlr.org/papers/v10/xu09b.html)
    """

    def __init__(self, norm="Linf", *, bounds=(0.0, 1.0), num_steps=25):
        self.norm = check_norm(norm)
        self.bounds = parse_bounds(bounds)
        self.num_steps = check_count("num_steps", num_steps, 1, 60)

    def at_radius(self, radius, bounds):
        return self._with(bounds=bounds)

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        ball = getattr(threat_models, self.norm)(0.0, None)
        boxed = ball.with_bounds(self.bounds)
        whose = "the bounds of the certificate, its argument `bounds`"
        x, _ = check_examples(x, None, boxed, whose)
        affine_model = _AffineModel(model, x, boxed, batch_size)
        logits = affine_model.logits.astype("float64")
        slopes = ops.convert_to_numpy(affine_model.slopes).astype("float64")
        labels = np.argmax(logits, axis=-1)
        slack = SLACK * np.max(np.abs(logits), axis=-1)
        free = _distances(logits, labels, slopes, ball, slack)
        if self.bounds is None:
            return CertificationResult(labels, free)
        ends = [np.broadcast_to(end, x.shape).astype("float32") for end in self.bounds]
        # No two points of the box are further apart than its opposite corners.
        sizes = ball.distance(*(ops.convert_to_tensor(end) for end in ends[::-1]))
        largest = ops.convert_to_numpy(sizes).astype("float64")

        def is_robust(radii):
            radii = radii.astype("float32")
            # An Linf radius broadcasts against the inputs.
            if self.norm == "Linf":
                radii = radii.reshape(-1, *(1 for _ in x.shape[1:]))
            return affine_model.worst_margin(labels, boxed.with_epsilon(radii)) < -slack

        # A box only removes mistakes, so the distance without it is certified.
        low = np.minimum(free, largest)
        return CertificationResult(labels, largest_radii(is_robust, low, largest, self.num_steps))


def _distances(logits, labels, slopes, ball, slack):
    """Returns the distances to the nearest mistake without a box, less those of the slack."""
    radii = np.full(len(logits), LARGEST)
    rows = np.arange(len(logits))
    for j in range(logits.shape[-1]):
        differences = ops.convert_to_tensor((slopes[labels] - slopes[j]).astype("float32"))
        norms = ops.convert_to_numpy(ball.dual_norm(differences)).astype("float64")
        gaps = np.maximum(logits[rows, labels] - logits[:, j] - slack, 0.0)
        # Two classes with equal slopes never change their order, so their radius is the largest,
        # unless rounding decides their order.
        fixed = np.where(gaps > 0.0, LARGEST, 0.0)
        radius = np.divide(gaps, norms, out=fixed, where=norms > 0.0)
        radii = np.where(labels == j, radii, np.minimum(radii, radius))
    return radii
