"""Input-gradient regularization."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import models
from keras_robust.objectives.objective_wrapper import Regularised
from keras_robust.threat_models.threat_model import flatten

_NORMS = ("dual", "l2_squared")


@keras.saving.register_keras_serializable(package="keras_robust")
class InputGradient(Regularised):
    """Input-gradient regularization: a flat loss around the clean examples.

    `L + weight * mean_i max_{||d|| <= epsilon} <grad_x CE_i, d>`, which is
    `epsilon * ||grad_x CE_i||_q` with `q` dual to the norm of the threat model (Lyu et al., 2015).
    With `weight=1` it is the first-order expansion of the loss under attack, which FGSM training
    minimizes for small epsilon (Simon-Gabriel et al., 2019). With `norm="l2_squared"` it is
    `L + weight * mean_i ||grad_x CE_i||_2^2`, the double backpropagation of Drucker and Le Cun
    (1992) and of Ross and Doshi-Velez (2018). Use it around any objective as a cheap defense
    against small perturbations.

    `grad_x CE_i` is the gradient of the cross-entropy of one example, not of the mean over the
    batch, so `weight` does not depend on the batch size. A large weight flattens the loss without
    moving the decision boundary, which masks gradients: judge such a model by attacks on margins
    and by attacks without gradients.

    The penalty uses the clean examples, whatever the objective trains on, in inference mode:
    without Dropout, and without updates of BatchNorm statistics. The statistics see the passes of
    the wrapped objective only. Cost: the cost of the objective, one attack pass, and the backward
    pass through both of its halves.

    Deviations from the authors' code: Ross and Doshi-Velez sum half the squares of the gradient of
    a mean over batch and pixels, so their weights are not comparable. The penalty sees the model in
    inference mode.

    Args:
        weight: float, or a `LearningRateSchedule` over optimizer steps. Tune it for `"l2_squared"`:
            0.03 to 0.3 help on 8x8 digits. Defaults to `1.0`.
        objective: an `Objective` or its name. Defaults to `"clean"`.
        norm: `"dual"` for the threat model without its bounds, whose epsilon grows during the
            warm-up of `AdvTrain`; or `"l2_squared"`, which ignores the threat model. Defaults to
            `"dual"`.

    Raises:
        ValueError: for a negative `weight` and an unknown `norm`, and in `fit` for a model that is
            no classifier.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.InputGradient())
    InputGradient(weight=1.0, objective=Clean(), norm='dual')

    References:
        - [Drucker and Le Cun, 1992](https://doi.org/10.1109/72.165600)
        - [Lyu et al., 2015](https://arxiv.org/abs/1511.06385)
        - [Ross and Doshi-Velez, 2018](https://arxiv.org/abs/1711.09404)
        - [Simon-Gabriel et al., 2019](https://arxiv.org/abs/1802.01421)
    """

    def __init__(self, weight=1.0, objective="clean", norm="dual"):
        super().__init__(weight, objective)
        if norm not in _NORMS:
            raise ValueError(f"Argument `norm` must be one of {_NORMS}. Received: norm={norm!r}")
        self.norm = norm

    def penalty(self, clean, adversarial):
        gradient = cross_entropy_gradient(clean.classifier, clean.x, clean.y)
        other = gradient
        if self.norm == "dual":
            # No gradient needs to flow through the maximizer, by the envelope theorem.
            ball = clean.batch.threat_model.without_bounds()
            # A step of this length maximizes the linearized loss over the ball.
            other = ball.step(ops.zeros_like(gradient), gradient, ball.radius)
            other = ops.stop_gradient(other)
        return ops.sum(flatten(gradient * other), axis=-1)


def cross_entropy_gradient(classifier, x, y):
    """Returns the gradient of each example's cross-entropy, in inference mode, in the shape of `x`.

    It can be differentiated again. Examples without a label have a zero gradient.
    """

    def values(x):
        return losses.cross_entropy(models.single(y), classifier.logits(x, y)), ()

    return backend.value_and_input_gradient(values, x)[1]
