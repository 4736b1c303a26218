"""Jacobian regularization."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.objectives.objective_wrapper import Regularised
from keras_robust.threat_models.threat_model import flatten

# Folded into the seed of the batch, because the attack draws from that seed itself.
_DRAW = 211


@keras.saving.register_keras_serializable(package="keras_robust")
class Jacobian(Regularised):
    """Jacobian regularization: logits that change little with the input.

    `L + weight * mean_i 1/2 ||J_i||_F^2` with `J_i = dz_i / dx_i`, the Jacobian of the logits. For
    `v` uniform on the unit sphere of `R^C`, with `C` the number of classes, the mean of
    `C ||J^T v||_2^2` is `||J||_F^2`, so a few random projections per example estimate it without
    bias. The penalty needs no labels. Use it around any objective against noise and small
    perturbations. Alone it is no defense against strong attacks.

    The penalty uses the clean examples, whatever the objective trains on, in inference mode:
    without Dropout, and without updates of BatchNorm statistics. The statistics see the passes of
    the wrapped objective only. Cost: the cost of the objective, `num_projections` attack passes,
    and the backward pass through both of their halves.

    Deviations from the authors' code: inference mode; a single logit `z` counts as the two logits
    `(0, z)`.

    Args:
        weight: float, or a `LearningRateSchedule` over optimizer steps. Defaults to `0.01`.
        objective: an `Objective` or its name. Defaults to `"clean"`.
        num_projections: int >= 1, random projections per example. With at least as many as classes,
            one projection on every class gives the exact norm. Defaults to `1`.

    Raises:
        ValueError: for a negative `weight` and for `num_projections` below 1, and in `fit` for a
            model that is no classifier.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.Jacobian(num_projections=3))
    Jacobian(weight=0.01, objective=Clean(), num_projections=3)

    References:
        - [Hoffman et al., 2019](https://arxiv.org/abs/1908.02729)
    """

    def __init__(self, weight=0.01, objective="clean", num_projections=1):
        super().__init__(weight, objective)
        if not isinstance(num_projections, int) or num_projections < 1:
            raise ValueError(
                "Argument `num_projections` must be an int >= 1. "
                f"Received: num_projections={num_projections!r}"
            )
        self.num_projections = num_projections

    def penalty(self, clean, adversarial):
        classifier, x, y = clean.classifier, clean.x, clean.y
        # Only the shape of these logits is used, so a graph omits this pass.
        num_examples, num_classes = ops.shape(classifier.logits(x, y))
        count = min(self.num_projections, num_classes)
        if count == num_classes:
            directions = ops.expand_dims(ops.eye(num_classes, dtype="float32"), 1)
        else:
            seed = backend.fold_in(clean.batch.seed, _DRAW)
            drawn = backend.normal((count, num_examples, num_classes), seed)
            directions = drawn / ops.sqrt(ops.sum(ops.square(drawn), axis=-1, keepdims=True))

        def squares(direction):
            def projected(x):
                return ops.sum(direction * classifier.logits(x, y), axis=-1), ()

            product = flatten(backend.value_and_input_gradient(projected, x)[1])
            return ops.sum(ops.square(product), axis=-1)

        total = sum(squares(directions[k]) for k in range(count))
        # Scale the sum over projections to an estimate of the squared Frobenius norm.
        return 0.5 * num_classes / count * total
