"""The base class of threat models: a ball around each example, inside the box of valid inputs."""

import copy
import math

import keras
import numpy as np
from keras import ops

from keras_robust import models
from keras_robust.configurable import Configurable
from keras_robust.registry import Registry
from keras_robust.threat_models.parsing import SCHEDULE
from keras_robust.threat_models.parsing import box_slack
from keras_robust.threat_models.parsing import parse_bounds
from keras_robust.threat_models.parsing import parse_epsilon

# What `contains` allows, so that rounding does not move a feasible point out of the ball or box.
TOLERANCE = 1e-5  # As a share of the radius, and of the width of the box.
ROUNDING = 2.0**-22  # As a share of each input: two units in the last place of float32.


class ThreatModel(Configurable):
    """The set of inputs that an attacker may choose for an example `x`.

    The feasible set is `{x_adv : distance(x_adv, x) <= epsilon and low <= x_adv <= high}`. A threat
    model is immutable: methods return changed copies. Subclasses define the ball.

    Args:
        epsilon: radius of the ball, in the units of the input. A number; a string such as
            `"8/255"`; an array that broadcasts against a batch; or a
            `keras.optimizers.schedules.LearningRateSchedule`, which `AdvTrain` evaluates at
            `optimizer.iterations`.
        bounds: pair `(low, high)`, the box of valid inputs: numbers, or arrays that broadcast
            against a batch (one value per channel). In arrays, a feature that never changes has
            equal bounds. `None` means that there is no box.

    Raises:
        ValueError: if `epsilon` is negative, not finite or cannot be parsed, if `low > high`
            anywhere, or if `low == high` everywhere.

    Class attributes: `changes_inputs`, whether the attacker changes inputs of the model, so that an
    adversarial example is a valid input; `exposes_inputs`, whether `bind` returns the inputs
    themselves, so that objectives can store or copy them; `has_sparse_steps`, whether steepest
    ascent changes few coordinates; `shares_perturbation`, whether all examples have the same
    perturbation; `order`, the order of the norm if the ball is that of a norm
    over all features, so that `epsilon` has the unit of the inputs, else `None`.
    """

    changes_inputs = True
    exposes_inputs = True
    shares_perturbation = False
    has_sparse_steps = False
    order = None

    def __init__(self, epsilon, bounds=(0.0, 1.0)):
        self._epsilon = parse_epsilon(epsilon)
        self._bounds = parse_bounds(bounds)
        # The arguments as given, for `get_config`.
        self._given = {"epsilon": epsilon, "bounds": bounds}

    @property
    def epsilon(self):
        """The radius: a number, an array, a schedule or, inside a train step, a tensor."""
        return self._epsilon

    @property
    def is_scheduled(self):
        """Whether the radius is a schedule, known only at an optimizer step."""
        return isinstance(self._epsilon, SCHEDULE)

    @property
    def bounds(self):
        """The pair `(low, high)` of numbers or arrays, or `None`."""
        return self._bounds

    @property
    def radius(self):
        """The radius as a tensor that broadcasts against a batch."""
        if isinstance(self._epsilon, SCHEDULE):
            raise ValueError(
                "A threat model whose `epsilon` is a schedule has a radius only at a training "
                "step. Use `threat_model.at(step)`, or give a number. "
                f"Received: epsilon={self._epsilon}"
            )
        return ops.convert_to_tensor(self._epsilon, dtype="float32")

    def at(self, step):
        """Returns this threat model with a scheduled `epsilon` evaluated at `step`."""
        if isinstance(self._epsilon, SCHEDULE):
            return self.with_epsilon(self._epsilon(step))
        return self

    def with_epsilon(self, epsilon):
        """Returns a copy with another radius (a number or a tensor, not checked)."""
        # Unchecked, because `epsilon` may be a tensor of a graph that is being traced.
        other = copy.copy(self)
        other._epsilon = epsilon
        other._given = {**self._given, "epsilon": epsilon}
        return other

    def with_radii(self, radii, x):
        """Returns a copy with one radius per example of `x`, a tensor `(batch_size,)`."""
        return self.with_epsilon(radii)

    def relative_step(self, share, x):
        """Returns `share * radius`, with one share per example, as a step size for `step`."""
        return per_example(share * self._radius_per_example(), x)

    def scaled(self, factor):
        """Returns a copy whose radius is multiplied by a number or tensor."""
        return self.with_epsilon(factor * self.radius)

    def with_bounds(self, bounds):
        """Returns a copy with another box, or without one."""
        other = copy.copy(self)
        other._bounds = parse_bounds(bounds)
        other._given = {**self._given, "bounds": bounds}
        return other

    def without_bounds(self):
        """Returns a copy without a box."""
        return self.with_bounds(None)

    def bind(self, model, inputs):
        """Returns the tensor that the attacker changes, and the model as a function of it.

        Args:
            model: a `keras.Model` or a callable.
            inputs: the inputs of the model, a tensor or a structure of tensors.

        Returns:
            The tensor that the attacker changes, float `(batch_size, ...)`; a `models.Classifier`
            that takes this tensor, and whose `pack` converts it to the inputs of the model; and the
            threat model for this tensor.
        """
        return *models.expose_input(model, inputs), self

    def map_inputs(self, function, inputs):
        """Returns the inputs with every leaf replaced by the result of `function`.

        Args:
            function: callable `(leaf, name, threat_model) -> leaf`. `name` is `None` if there is
                only one input, and `threat_model` is `None` for an input that the attacker does not
                change.
            inputs: the inputs of a model, a tensor or array, or a structure of them.
        """
        leaf = function(models.only_input(inputs), None, self)
        return keras.tree.pack_sequence_as(inputs, [leaf])

    def pack(self, x_adv, inputs):
        """Returns `x_adv`, shaped as `bind` returns it, in the structure of the inputs."""
        return keras.tree.pack_sequence_as(inputs, [x_adv])

    def predict_logits(self, model, inputs, x_adv, batch_size):
        """Returns NumPy logits at the points that an attack on `inputs` returned."""
        return models.predict_logits(model, x_adv, batch_size)

    def check_shape(self, shape):
        """Raises `ValueError` if `epsilon` is an array that does not fit examples of `shape`.

        Args:
            shape: tuple, the shape of a batch or a data set, with `None` for unknown sizes.
        """
        # A norm over a whole example has one radius, so an array holds one value per example. Only
        # `Linf` may have a radius for each feature, and overrides this method.
        size = getattr(self._epsilon, "size", 1)
        if size not in (1, shape[0]):
            raise ValueError(
                "Argument `epsilon` must be one number, or, in a call on data, an array with one "
                f"value per example. Received: epsilon of shape {self._epsilon.shape} for inputs "
                f"of shape {shape}"
            )

    def drawn(self, x, seed):
        """Returns the threat model of one search, in which random choices have been made.

        Args:
            x: float tensor `(batch_size, ...)`, the clean examples.
            seed: int32 tensor, as for `random_start`.
        """
        return self

    def epsilon_for_rows(self, rows, x):
        """Returns the radius, as an array, for some rows of the data set `x`."""
        radius = ops.convert_to_numpy(self.radius)
        return radius if radius.size == 1 else radius[rows]

    def project(self, x_adv, x):
        """Returns the feasible point nearest to `x_adv` (Euclidean), shape of `x`."""
        raise NotImplementedError

    def steepest_direction(self, gradient):
        """Returns the `d` of norm 1 with the largest `<gradient, d>`, per example."""
        raise NotImplementedError

    def linear_maximization_oracle(self, direction, x):
        """Returns the feasible point with the largest `<direction, x_adv>`, per example, exactly.

        This is the worst case for a model that is linear in its input. Coordinates where
        `direction` is 0 do not change.
        """
        raise NotImplementedError

    def random_start(self, x, seed):
        """Returns a point drawn uniformly from the ball around `x`, projected into the box.

        Args:
            x: float tensor `(batch_size, ...)`.
            seed: int32 tensor `(2,)` for one stream for the batch, or `(batch_size, 2)` for one
                stream per example.
        """
        raise NotImplementedError

    def random_start_on_sphere(self, x, seed):
        """Returns a random point about `epsilon` away from `x`, in the ball and the box.

        APGD starts from such a point. The arguments are the same as for `random_start`.
        """
        raise NotImplementedError

    def project_onto_hyperplane(self, x, gradient, change):
        """Returns the shortest step from `x`, in the box, that changes `<gradient, x>` by `change`.

        The length of a step is measured in the norm of the ball; the radius is ignored. If the box
        contains no such point, the result is the step to the corner that comes closest.

        Args:
            x: float tensor `(batch_size, ...)` in the box.
            gradient: float tensor like `x`.
            change: float tensor `(batch_size,)`.
        """
        raise ValueError(
            "Attacks that step over hyperplanes, such as FAB, need one norm: L1, L2 or Linf. "
            f"Received: {self!r}"
        )

    def dual_norm(self, gradient):
        """Returns the largest `<gradient, d>` over all `d` of norm 1, shape `(batch_size,)`."""
        return ops.sum(flatten(gradient * self.steepest_direction(gradient)), axis=-1)

    def distance(self, x_adv, x):
        """Returns the norm of `x_adv - x`, shape `(batch_size,)`."""
        raise NotImplementedError

    def step(self, x_adv, gradient, step_size):
        """Returns `x_adv` moved by `step_size` along the steepest ascent direction."""
        return x_adv + step_size * self.steepest_direction(gradient)

    def contains(self, x_adv, x, tolerance=TOLERANCE):
        """Returns, per example, whether `x_adv` is feasible up to `tolerance * epsilon`.

        For the box the tolerance is relative to its width. Rounding errors of `x` and of the ends
        of the box in float32 are added.
        """
        # Relative, because an absolute tolerance would accept any point near tiny inputs.
        slack = tolerance * self.radius
        inside = self._in_ball(x_adv, x, slack, ROUNDING * ops.abs(x))
        return ops.logical_and(inside, self._in_box(x_adv, tolerance))

    def _arguments(self):
        return self._given

    def _in_ball(self, x_adv, x, slack, rounding):
        slack = ops.reshape(slack, (-1,)) + self.distance(rounding, ops.zeros_like(rounding))
        return self.distance(x_adv, x) <= self._radius_per_example() + slack

    def _in_box(self, x_adv, tolerance):
        """Returns, per example, whether all features are in the box."""
        if self._bounds is None:
            return ops.ones(ops.shape(x_adv)[:1], dtype="bool")
        low, high = self._box()
        beyond = box_slack(self._bounds, tolerance)
        in_box = ops.logical_and(x_adv >= low - beyond, x_adv <= high + beyond)
        return ops.all(flatten(in_box), axis=-1)

    def _radius_per_example(self):
        """Returns the radius with shape `(1,)` or `(batch_size,)`, for norms over an example."""
        return ops.reshape(self.radius, (-1,))

    def _box(self):
        if self._bounds is None:
            return -np.inf, np.inf
        return tuple(ops.convert_to_tensor(bound, dtype="float32") for bound in self._bounds)

    def clip(self, x):
        """Returns `x` clipped to the bounds."""
        return x if self._bounds is None else ops.clip(x, *self._box())

    def _headroom(self, x, direction):
        """Returns how far each coordinate of `x` can move in the sign of `direction`."""
        low, high = self._box()
        return ops.maximum(ops.where(direction > 0, high - x, x - low), 0.0)


registry = Registry("threat model", ThreatModel)


def flatten(x):
    """Returns `x` as `(batch_size, features)`."""
    # Prefer a static number of features, which later shapes need. `reshape` accepts only one -1.
    features = -1 if None in x.shape[1:] else math.prod(x.shape[1:])
    return ops.reshape(x, (-1 if features >= 0 else ops.shape(x)[0], features))


def per_example(values, x):
    """Returns `(batch_size,)` or `(1,)` values reshaped to broadcast against `x`."""
    return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1))
