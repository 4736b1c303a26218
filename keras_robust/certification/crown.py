"""Certificates by linear bounds: CROWN and alpha-CROWN."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification.input_region import InputRegion
from keras_robust.certification.linear_bounds import LinearBounds
from keras_robust.certification.model_checks import SLACK
from keras_robust.certification.model_checks import check_precision
from keras_robust.certification.model_checks import check_shape
from keras_robust.certification.padding import padded_rows
from keras_robust.certification.radii import check_largest_radius
from keras_robust.certification.radii import check_norm
from keras_robust.certification.radii import radii_from_below
from keras_robust.certification.radii import with_progress
from keras_robust.layers.input_transformation import check_count
from keras_robust.threat_models.parsing import parse_bounds

_MOST_ROWS = 10**6


@keras.saving.register_keras_serializable(package="keras_robust")
class Crown(Certificate):
    """Certifies an ordinary network in Linf, L2 or L1 by linear bounds (CROWN).

    Every activation is bounded by two lines on the interval of its inputs. A backward pass replaces
    each activation by the line that makes the margin `z_j - z_y` larger, which gives an affine
    function of the input that is never below the margin. Its maximum over the ball and the box of
    valid inputs has a closed form in Linf, and a bound by duality in L2 and L1. The intervals are
    bounded by backward passes of their own. The prediction provably stays the same at a radius
    where no margin can reach 0; a search finds the largest such radius, and returns only radii that
    were proved.

    Of all lines those with the smallest area between them and the activation are used. For ReLU on
    `[l, u]` around 0: above `u (h - l) / (u - l)`; below `h` if `u > -l`, else 0.

    The certificate is a proof up to rounding. Bounds are computed in float64, for the exact
    function that the weights define. For the rounding of the model in float32, a margin must be
    below 0 by 1e-6 of `max_j sum_i |w_ji h_i| + |b_j|`, the terms of the largest logit over the
    ball. That covers errors of the last layer, and not those of a model whose inner layers cancel
    far larger numbers. Half precision raises a `ValueError`.

    It proves much for small networks of a few layers, whatever their training, and little for deep
    ones, where the intervals of inner layers become wide.

    Supports Sequential and Functional models of the layers that `Interval` supports, with ReLU,
    LeakyReLU, ELU, CELU, SELU, GELU, SiLU, sigmoid, tanh, softplus and similar activations. A
    maximum is taken as `max(a, b) = b + relu(a - b)`. Other layers raise a `ValueError` that names
    them. A final softmax or sigmoid is removed.

    Deviations from the authors' code: float64 and the slack; activations other than ReLU have the
    lines of smallest area. Cost for each input and radius: two backward passes for each entry of an
    inner layer whose activation is not a line on its interval, and one for each class.

    Args:
        norm: `"Linf"`, `"L2"` or `"L1"`. Defaults to `"Linf"`.
        bounds: pair `(low, high)`, the box of valid inputs, numbers or arrays with a number for
            each channel, or `None` for no box. Defaults to `(0.0, 1.0)`.
        max_radius: float above 0, or a string such as `"8/255"`, the largest radius to try; `None`
            for the size of the box, which a search never exceeds. Defaults to `None`.
        num_steps: int, the number of bisections, after the radius was doubled as long as it was
            certified: the result is within `2**-num_steps` of the largest, relatively. With 0, only
            `max_radius` is tried. Defaults to `8`.
        chunk_size: int, the number of functions that one backward pass bounds. The memory that a
            pass needs is about `90 * chunk_size` times the entries of the widest layer, in bytes.
            Does not change the result. Defaults to `1024`.

    Raises:
        ValueError: for arguments out of range; in `certify` for a layer without a rule or in half
            precision, which the message names; for a model with a custom `call`; and, if the loss
            takes probabilities, for a model that does not end in a softmax or sigmoid.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> layers = [keras.layers.Dense(2, kernel_initializer="identity"), keras.layers.ReLU()]
    >>> model = keras.Sequential([keras.Input((2,)), *layers])
    >>> x = np.array([[0.9, 0.5]], "float32")
    >>> found = kr.certification.Crown("L2", num_steps=12).certify(model, x)
    >>> print(found.predictions, np.round(found.radii, 3))
    [0] [0.283]

    References:
        - [Zhang et al., 2018](https://arxiv.org/abs/1811.00866)
    """

    def __init__(
        self, norm="Linf", *, bounds=(0.0, 1.0), max_radius=None, num_steps=8, chunk_size=1024
    ):
        self.norm = check_norm(norm)
        self.bounds = parse_bounds(bounds)
        self.max_radius = check_largest_radius(self.bounds, max_radius)
        self.num_steps = check_count("num_steps", num_steps, 0, 60)
        self.chunk_size = check_count("chunk_size", chunk_size, 1, _MOST_ROWS)

    def at_radius(self, radius, bounds):
        return self._with(max_radius=radius, bounds=bounds, num_steps=0)

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        check_shape(model, x)
        check_precision(model)
        if not len(x):
            return CertificationResult(np.zeros(0, "int64"), np.zeros(0))
        with backend.double_precision():
            logits = models.predict_logits(model, x, batch_size).astype("float64")
            linear = LinearBounds(model, x.shape[1:], self.norm, self.chunk_size)
            largest = self._largest_radius(x)
            labels = np.argmax(logits, axis=-1)
            radii = []
            for start in with_progress(len(x), batch_size, verbose):
                rows = slice(start, start + batch_size)
                certified = _Batch(self, linear, x[rows], labels[rows])
                whole = np.full(len(x[rows]), largest)
                radii.append(radii_from_below(certified, whole, self.num_steps))
        return CertificationResult(labels, np.concatenate(radii))

    def proves(self, linear, region, labels):
        """Returns for which examples no margin reaches 0 on a region, bools `(n,)`.

        Args:
            linear: `LinearBounds` of the model.
            region: `InputRegion`, float64.
            labels: int array `(n,)`, the predictions.
        """
        return linear.largest_margins(region, labels, rounding=SLACK) < 0.0

    def _largest_radius(self, x):
        # One radius that is tried alone is the question itself.
        if self.bounds is None or (self.max_radius is not None and not self.num_steps):
            return float(self.max_radius)
        # No two points of the box are further apart than its opposite corners.
        ends = [np.broadcast_to(end, x.shape[1:]).astype("float64") for end in self.bounds]
        order = {"L1": 1, "L2": 2, "Linf": np.inf}[self.norm]
        size = float(np.linalg.norm((ends[1] - ends[0]).ravel(), order))
        # The search begins with a share of the largest radius, which must not be beyond the box.
        return size if self.max_radius is None else min(float(self.max_radius), size)


@keras.saving.register_keras_serializable(package="keras_robust")
class AlphaCrown(Crown):
    """Certifies as `Crown`, with the slopes of the lines optimized for each margin (alpha-CROWN).

    Every slope gives a valid line, with the offset that the interval requires. Where `Crown` proves
    nothing at a radius, Adam lowers the bound of each margin over the slopes of all lines, and with
    `inner_iterations` the bounds of the inner layers as well, each with slopes of its own. With
    both, the bound of a network with two hidden layers of ReLU converges to that of the linear
    program over the triangle relaxation. It is never worse than `Crown`.

    Deviations from the authors' code: the slopes of each bound of an inner layer are optimized for
    that bound alone. Cost: for each step about three times that of `Crown`, without
    `inner_iterations` for the margins only.

    Args:
        norm, bounds, max_radius, num_steps, chunk_size: as for `Crown`. The slopes of each function
            in a chunk that is optimized need memory as well.
        num_iterations: int of at least 1, the steps for the margins. Defaults to `20`.
        inner_iterations: int, the steps for the bounds of inner layers. Defaults to `0`.

    Raises:
        ValueError: as for `Crown`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> dense = keras.layers.Dense
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), dense(8, "relu"), dense(8, "relu"), dense(3)])
    >>> x = np.random.default_rng(0).uniform(size=(20, 4)).astype("float32")
    >>> crown, alpha = (
    ...     method(max_radius=0.3, num_steps=6).certify(model, x).radii
    ...     for method in (kr.certification.Crown, kr.certification.AlphaCrown)
    ... )
    >>> print(np.all(alpha >= crown), np.mean(alpha) > np.mean(crown))
    True True

    References:
        - [Xu et al., 2021](https://arxiv.org/abs/2011.13824)
    """

    def __init__(
        self,
        norm="Linf",
        *,
        bounds=(0.0, 1.0),
        max_radius=None,
        num_steps=8,
        chunk_size=1024,
        num_iterations=20,
        inner_iterations=0,
    ):
        super().__init__(
            norm, bounds=bounds, max_radius=max_radius, num_steps=num_steps, chunk_size=chunk_size
        )
        self.num_iterations = check_count("num_iterations", num_iterations, 1, 10**6)
        self.inner_iterations = check_count("inner_iterations", inner_iterations, 0, 10**6)

    def proves(self, linear, region, labels):
        found = super().proves(linear, region, labels)
        # Each stage costs more than the one before, and gets only what that one did not prove.
        for inner_iterations in sorted({0, self.inner_iterations}):
            rows = np.nonzero(~found)[0]
            if not len(rows):
                break
            margins = linear.largest_margins(
                InputRegion(*(ops.take(part, rows, axis=0) for part in region)),
                labels[rows],
                self.num_iterations,
                inner_iterations,
                rounding=SLACK,
            )
            found[rows] = margins < 0.0
        return found


class _Batch:
    """Says which examples of a batch are certified at given radii.

    Args:
        certificate: `Crown`.
        linear: `LinearBounds` of the model.
        x: array `(n, ...)`.
        labels: int array `(n,)`, the predictions.
    """

    def __init__(self, certificate, linear, x, labels):
        self._certificate, self._linear = certificate, linear
        self._x, self._labels = x.astype("float64"), labels

    def __call__(self, rows, radii):
        """Returns bools for the rows, an int array, each at its radius."""
        padded = padded_rows(len(rows))
        taken = rows[padded]
        given = map(ops.convert_to_tensor, (self._x[taken], radii[padded]))
        region = InputRegion.around(*given, self._certificate.bounds)
        return self._certificate.proves(self._linear, region, self._labels[taken])[: len(rows)]
