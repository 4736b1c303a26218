"""What training minimises: the interface of all objectives."""

import math
import numbers

import keras
from keras import ops

from keras_robust.configurable import Configurable
from keras_robust.registry import Registry

_SCHEDULE = keras.optimizers.schedules.LearningRateSchedule


class Objective(Configurable):
    """Turns a clean and an adversarial batch into the loss of a train step.

    Subclasses write `loss`. Whatever is read from a stream is computed, once and in training mode;
    what is not read costs nothing. The weights of the compiled losses sum to 1, so that the
    regularisers in them count once.

    Few need more: `perturb` makes the adversarial examples, by default with the attack of
    `AdvTrain`; `step` takes the optimizer step, by default along the gradient of `loss`.

    Attributes of the class: `default_attack`, the attack, or its name, that `AdvTrain` runs if it
    is given none; `runs_attack`, whether `perturb` makes adversarial examples, so that there is an
    accuracy under attack to log; `takes_unlabelled`, whether labels may be -1, for none
    (`"if_ignored"`: if the compiled loss leaves such examples out);
    `persistent_delta`, whether `step` hands a perturbation from batch to batch; `steps_per_batch`,
    how many optimizer steps `step` takes, by which `AdvTrain` reckons the length of a training.

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
        """Raises `ValueError` before a training that cannot work; by default never.

        Args:
            model: the compiled `keras.Model`.
            threat_model: a `ThreatModel`.
        """

    def perturb(self, attack, classifier, batch):
        """Returns the `AttackResult` for a `Batch`: by default what the attack finds."""
        return attack.perturb(classifier, batch.x, batch.y, batch.threat_model, batch.seed)

    def attacked_mask(self, batch):
        """Returns, per example, whether `perturb` attacks it; `None` for all."""
        return None

    def new_objective_state(self, x, y, sample_weight):
        """Returns variables that outlive a batch, made once in a `fit`; by default `None`.

        `step` finds them in `batch.memory`, and may assign to them. They are gone after `fit`.

        Args:
            x: tensor `(batch_size, ...)`, of which only shape and dtype are known.
            y: labels, a tensor or a structure of tensors, likewise.
            sample_weight: tensor `(batch_size,)` or `None`, likewise.
        """
        return None

    def loss(self, clean, adversarial):
        """Returns the scalar loss.

        Args:
            clean: `training.ForwardPass` of the examples as they are.
            adversarial: `training.ForwardPass` of what `perturb` made of them.
        """
        raise NotImplementedError

    def step(self, gradient_step, attack, batch):
        """Takes the optimizer step for one batch, and returns a `training.StepResult`.

        Args:
            gradient_step: `training.GradientStep`, with `backward` and `apply`.
            attack: an `Attack`.
            batch: `training.Batch`.
        """
        found = self.perturb(attack, gradient_step.classifier, batch)
        return gradient_step.apply(gradient_step.backward(self.loss, found))


registry = Registry("objective", Objective)
get = registry.get


def check_weight(name, value, maximum=float("inf")):
    """Returns `value`, or says that it is not a number from 0 to `maximum`, or a schedule."""
    if isinstance(value, _SCHEDULE):
        return value
    is_number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not is_number or not 0.0 <= value <= maximum:
        raise ValueError(
            f"Argument `{name}` must be a number from 0 to {maximum}, or a LearningRateSchedule. "
            f"Received: {name}={value!r}"
        )
    return value


def at(value, stream):
    """Returns a number as it is, and what a schedule says at the optimizer step of `stream`."""
    if not isinstance(value, _SCHEDULE):
        return value
    return ops.cast(value(stream.batch.iteration), "float32")
