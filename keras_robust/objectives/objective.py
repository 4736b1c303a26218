"""What training minimises: the interface of all objectives."""

import inspect
import math
import numbers


class Objective:
    """Turns a clean and an adversarial batch into the loss of a train step.

    Subclasses write `loss`. Whatever is read from a stream is computed, once and in training mode;
    what is not read costs nothing. The weights of the compiled losses sum to 1, so that the
    regularisers in them count once. `runs_attack` says whether `perturb` makes adversarial
    examples, so that there is an accuracy under attack to log.

    Example:

    >>> import keras_robust as kr
    >>> class Squeezed(kr.objectives.Objective):
    ...     def loss(self, clean, adversarial):
    ...         squares = keras.ops.mean(keras.ops.square(adversarial.logits), axis=-1)
    ...         return adversarial.loss + 0.1 * adversarial.mean(squares)
    >>> print(kr.AdvTrain(objective=Squeezed()).objective)
    Squeezed()
    """

    runs_attack = True

    def perturb(self, attack, classifier, x, y, threat_model, seed):
        """Returns `attacks.Found` for the batch: by default what the attack finds."""
        return attack.perturb(classifier, x, y, threat_model, seed)

    def loss(self, clean, adversarial):
        """Returns the scalar loss.

        Args:
            clean: `backend.Stream` of the examples as they are.
            adversarial: `backend.Stream` of what `perturb` made of them.
        """
        raise NotImplementedError

    def get_config(self):
        names = inspect.signature(type(self).__init__).parameters
        return {
            name: getattr(self, name) for name in names if name not in ("self", "args", "kwargs")
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def check_weight(name, value, maximum=float("inf")):
    """Returns `value`, or says that it is not a number from 0 to `maximum`."""
    is_number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not is_number or not 0.0 <= value <= maximum:
        raise ValueError(
            f"Argument `{name}` must be a number from 0 to {maximum}. Received: {name}={value!r}"
        )
    return value
