"""A penalty on the gradient of the loss with respect to the input."""

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
    """Input-gradient regularisation: a loss that is flat around the clean examples.

    `L + weight * mean_i max_{||d|| <= epsilon} <grad_x CE_i, d>`, which is
    `epsilon * ||grad_x CE_i||_q` with the norm dual to that of the threat model (Lyu et al., 2015).
    With `weight=1` it is the first-order expansion of the loss under attack, what FGSM training
    minimises where epsilon is small (Simon-Gabriel et al., 2019). With `norm="l2_squared"` it is
    `L + weight * mean_i ||grad_x CE_i||_2^2`, the double backpropagation of Drucker and Le Cun
    (1992) and of Ross and Doshi-Velez (2018). Use it as a cheap defence against small
    perturbations, around any objective.

    `grad_x CE_i` is the gradient of the cross-entropy of one example, not of the mean over the
    batch, so that `weight` does not depend on the batch size. A large weight flattens the loss
    without moving the decision boundary, which masks gradients: judge such a model by attacks on
    margins and by attacks without gradients.

    The penalty is taken at the clean examples, whatever the objective trains on, in inference mode:
    Dropout is still, and BatchNorm statistics are used but not changed. They see what the objective
    shows them. Cost: that of the objective, one attack pass, and the backward pass through both of
    its halves.

    Deviations from the authors' code: Ross and Doshi-Velez sum half the squares over batch and
    pixels of the gradient of a mean, so that their weights cannot be compared; the penalty sees
    the model in inference mode.

    Args:
        weight: float, or a `LearningRateSchedule` over optimizer steps. For `"l2_squared"` it must
            be found by trying: 0.03 to 0.3 help on 8x8 digits. Defaults to `1.0`.
        objective: an `Objective` or its name. Defaults to `"clean"`.
        norm: `"dual"`, for the threat model without its box, with an epsilon that grows during the
            warm-up of `AdvTrain`; or `"l2_squared"`, for which no threat model counts. Defaults to
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
            # The maximiser, which may be held fixed: the slope of a maximum is that of its terms.
            ball = clean.batch.threat_model.without_bounds()
            other = ball.step(ops.zeros_like(gradient), gradient, ball.radius)
            other = ops.stop_gradient(other)
        return ops.sum(flatten(gradient * other), axis=-1)


def cross_entropy_gradient(classifier, x, y):
    """Returns the gradient of each example's cross-entropy at `x`, in inference mode; shape of `x`.

    It can be differentiated again. Examples without a label have none.
    """

    def values(x):
        return losses.cross_entropy(models.single(y), classifier.logits(x, y)), ()

    return backend.value_and_input_gradient(values, x)[1]
