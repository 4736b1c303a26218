"""Certificates in Linf by interval bound propagation."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_bounds import worst_margins
from keras_robust.certification.interval_rules import propagate_box
from keras_robust.certification.model_checks import SLACK
from keras_robust.certification.model_checks import check_logits
from keras_robust.certification.model_checks import check_precision
from keras_robust.certification.model_checks import check_shape
from keras_robust.certification.radii import check_largest_radius
from keras_robust.certification.radii import largest_radii
from keras_robust.certification.radii import with_progress
from keras_robust.layers.input_transformation import check_count
from keras_robust.threat_models.parsing import parse_bounds
from keras_robust.threat_models.threat_model import per_example


@keras.saving.register_keras_serializable(package="keras_robust")
class Interval(Certificate):
    """Certifies a model in Linf by interval bound propagation (IBP): fast, but often loose.

    The box of feasible inputs, `[max(x - r, low), min(x + r, high)]`, is propagated through the
    layers: `W x + b` maps center and radius to `W c + b` and `|W| r`, and increasing functions map
    the ends. For the last Dense layer `(w_j - w_y) h` is bounded instead of each logit (elision).
    The prediction provably stays the same if no `z_j` can reach `z_y`; bisection finds the largest
    such `r`.

    The proof holds up to rounding, as for `Crown`: bounds are computed in float64, rounded to
    nearest, and a margin must be below 0 by 1e-6 of the largest logit. TensorFloat-32, which GPUs
    may use, rounds by more, about 1e-3; half precision raises a `ValueError`. A radius of 0 says
    nothing about the model: bounds widen at every layer, and networks that were not trained for IBP
    (`objectives.IBP`) get radii near 0, however robust they are.

    Supports Sequential and Functional models of Dense, Conv, pooling, BatchNormalization (with its
    moving statistics), increasing activations, Flatten, Reshape, Add and similar layers. Other
    layers raise a `ValueError` that names them. A final softmax or sigmoid is removed.

    Deviations from the authors' code: the slack for rounding; they report one radius, not the
    largest. Cost for each input: about two forward passes times `num_steps`.

    Args:
        bounds: pair `(low, high)`, the box of valid inputs, numbers or arrays with a number for
            each channel, or `None` for no box. Defaults to `(0.0, 1.0)`.
        max_radius: float above 0, the largest radius to try; `None` for the width of the box.
            Defaults to `None`.
        num_steps: int, the number of bisections: the radius is within `max_radius / 2**num_steps`
            of the largest. With 0, only `max_radius` is tried. Defaults to `20`.

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
    >>> found = kr.certification.Interval().certify(model, np.array([[0.9, 0.5]], "float32"))
    >>> print(found.predictions, np.round(found.radii, 3))
    [0] [0.2]

    References:
        - [Gowal et al., 2018](https://arxiv.org/abs/1810.12715)
    """

    norm = "Linf"

    def __init__(self, bounds=(0.0, 1.0), *, max_radius=None, num_steps=20):
        self.bounds = parse_bounds(bounds)
        self.max_radius = check_largest_radius(self.bounds, max_radius)
        self.num_steps = check_count("num_steps", num_steps, 0, 60)

    def at_radius(self, radius, bounds):
        return self._with(max_radius=radius, bounds=bounds, num_steps=0)

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        check_shape(model, x)
        check_precision(model)
        if not len(x):
            return CertificationResult(np.zeros(0, "int64"), np.zeros(0))
        # In float64 the rounding of the bounds is far below the rounding of a model in float32.
        with backend.double_precision():
            return self._certify(model, x, batch_size, verbose)

    def _certify(self, model, x, batch_size, verbose):
        logits = models.predict_logits(model, x, batch_size).astype("float64")
        predictions = np.argmax(logits, axis=-1)
        slack = SLACK * np.max(np.abs(logits), axis=-1)
        largest = self.max_radius
        if largest is None:
            # From this radius on, the ball contains the whole box.
            largest = float(np.max(np.asarray(self.bounds[1]) - np.asarray(self.bounds[0])))

        def largest_margin(x, radii, labels):
            margins = interval_margins(model, x, per_example(radii, x), labels, self.bounds)
            # The margin of the true class is always 0, so it must not decide.
            own = ops.one_hot(labels, margins.shape[-1], dtype="bool")
            return ops.max(ops.where(own, -np.inf, margins), axis=-1)

        worst = backend.compile_function(largest_margin)
        radii = []
        for start in with_progress(len(x), batch_size, verbose):
            rows = slice(start, start + batch_size)
            inputs = ops.convert_to_tensor(x[rows].astype("float64"))
            labels = ops.convert_to_tensor(predictions[rows], "int32")

            # The defaults bind the values of this iteration.
            def is_certified(tried, inputs=inputs, labels=labels, slack=slack[rows]):
                return np.asarray(worst(inputs, ops.convert_to_tensor(tried), labels)) < -slack

            none = np.zeros(len(x[rows]))
            radii.append(largest_radii(is_certified, none, none + largest, self.num_steps))
        return CertificationResult(predictions.astype("int64"), np.concatenate(radii))


def interval_margins(model, x, radii, labels, bounds):
    """Returns upper bounds of `z_j - z_y` on the intersection of Linf balls with a box.

    Args:
        model: built Sequential or Functional `keras.Model`.
        x: float tensor `(batch_size, ...)`; the bounds are computed in its dtype.
        radii: tensor that broadcasts against `x`.
        labels: int32 `(batch_size,)`, `y`.
        bounds: pair of numbers or arrays, the box of valid inputs, or `None`.

    Returns:
        Tensor `(batch_size, num_classes)`, 0 for `j = y`.
    """
    return box_margins(model, ball_box(x, radii, bounds), labels)


def box_margins(model, box, labels, relu_boxes=None):
    """Returns upper bounds of `z_j - z_y` on the `IntervalBounds` of the inputs.

    The box in front of every ReLU is added to the list `relu_boxes`, unless that is `None`.
    """
    outputs = propagate_box(model, box, relu_boxes)
    check_logits(model, outputs)
    return worst_margins(outputs, labels)


def ball_box(x, radii, bounds):
    """Returns the intersection of an Linf ball with the bounds, as `IntervalBounds`."""
    lower, upper = x - radii, x + radii
    if bounds is None:
        return IntervalBounds(lower, upper)
    low, high = (ops.convert_to_tensor(bound, dtype=x.dtype) for bound in bounds)
    # Keep `x` in the box even if a rounding error puts it out of the bounds.
    lower = ops.minimum(ops.maximum(lower, low), x)
    return IntervalBounds(lower, ops.maximum(ops.minimum(upper, high), x))
