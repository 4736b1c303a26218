"""Interface of objectives, the losses that training minimizes."""

import math
import numbers

import keras
from keras import ops

from keras_robust.configurable import Configurable
from keras_robust.registry import Registry

_SCHEDULE = keras.optimizers.schedules.LearningRateSchedule


class Objective(Configurable):
    """Computes the loss of a train step from a clean and an adversarial batch.

    Subclasses implement `loss`. Its two forward passes are lazy: the first use of an attribute
    computes it in training mode, and an unused attribute costs nothing. The weights of the compiled
    losses must sum to 1, so that the regularizers in them count once.

    Few subclasses need more. `perturb` makes the adversarial examples, by default with the attack
    of `AdvTrain`. `step` takes the optimizer step, by default along the gradient of `loss`.

    Attributes of the class:

    - `default_attack`: the attack, or its name, that `AdvTrain` uses without `attack`.
    - `runs_attack`: whether `perturb` makes adversarial examples, so that `AdvTrain` can log an
      accuracy under attack.
    - `takes_unlabelled`: whether the label -1 for "no label" is allowed; with `"if_ignored"` only
      if the compiled loss ignores such examples.
    - `persistent_delta`: whether `step` passes a perturbation from batch to batch.
    - `steps_per_batch`: the number of optimizer steps in `step`, from which `AdvTrain` computes the
      length of a training.

    Example:

    >>> import keras_robust as kr
    >>> class Squeezed(kr.objectives.Objective):
    ...     def loss(self, clean, adversarial):
    ...         squares = keras.ops.mean(keras.ops.square(adversarial.logits), axis=-1)
    ...         return adversarial.loss + 0.1 * adversarial.mean(squares)
    >>> print(kr.AdvTrain(objective=Squeezed()).objective)
    Squeezed()
    """

    default_attack = "pgd"
    runs_attack = True
    takes_unlabelled = False
    persistent_delta = False
    steps_per_batch = 1

    def check(self, model, threat_model):
        """Raises `ValueError` for a training that cannot work. By default it does nothing.

        Args:
            model: the compiled `keras.Model`.
            threat_model: a `ThreatModel`.
        """

    def perturb(self, attack, classifier, batch):
        """Returns the `AttackResult` for a `Batch`, by default the result of the attack."""
        return attack.perturb(classifier, batch.x, batch.y, batch.threat_model, batch.seed)

    def attacked_mask(self, batch):
        """Returns for each example whether `perturb` attacks it, or `None` for all examples."""
        return None

    def new_objective_state(self, x, y, sample_weight):
        """Returns variables that persist between batches, by default `None`.

        `fit` calls it once. `step` finds the variables in `batch.objective_state`, and may assign
        to them. They are deleted after `fit`.

        Args:
            x: symbolic tensor `(batch_size, ...)` with a known shape and dtype only.
            y: symbolic labels, a tensor or a structure of tensors.
            sample_weight: symbolic tensor `(batch_size,)`, or `None`.
        """
        return None

    def loss(self, clean, adversarial):
        """Returns the scalar loss.

        Args:
            clean: `training.ForwardPass` of the clean examples.
            adversarial: `training.ForwardPass` of the result of `perturb`.
        """
        raise NotImplementedError

    def step(self, gradient_step, attack, batch):
        """Takes the optimizer step for one batch.

        Args:
            gradient_step: `training.GradientStep`, with `backward` and `apply`.
            attack: an `Attack`.
            batch: `training.Batch`.

        Returns:
            The `training.StepResult` of `gradient_step.apply`, whose fields may be replaced.
        """
        found = self.perturb(attack, gradient_step.classifier, batch)
        return gradient_step.apply(gradient_step.backward(self.loss, found))


registry = Registry("objective", Objective)
get = registry.get


def check_weight(name, value, maximum=float("inf")):
    """Returns `value`. Raises ValueError unless it is from 0 to `maximum`, or a schedule."""
    if isinstance(value, _SCHEDULE):
        return value
    is_number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not is_number or not 0.0 <= value <= maximum:
        raise ValueError(
            f"Argument `{name}` must be a number from 0 to {maximum}, or a LearningRateSchedule. "
            f"Received: {name}={value!r}"
        )
    return value


def at(value, forward_pass):
    """Returns a number unchanged, and a schedule at the optimizer step of `forward_pass`."""
    if not isinstance(value, _SCHEDULE):
        return value
    return ops.cast(value(forward_pass.batch.iteration), "float32")
