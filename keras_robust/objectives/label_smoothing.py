"""Label smoothing for any objective that uses the compiled loss."""

import keras
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight
from keras_robust.objectives.objective_wrapper import ObjectiveWrapper

_LOSSES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")


@keras.saving.register_keras_serializable(package="keras_robust")
class LabelSmoothing(ObjectiveWrapper):
    """Label smoothing: the target of the true class is `1 - smoothing + smoothing / C`.

    Every other of the `C` classes gets `smoothing / C`. Wherever the wrapped objective uses the
    compiled cross-entropy, on clean or adversarial examples,
    `CE(smoothed y, z) = CE(y, z) + smoothing * (z_y - mean_j z_j)` replaces it: for `Clean` on the
    clean examples, for `Adversarial` on the adversarial ones, for `Mixed` on both, and for `TRADES`
    in the clean term. Labels can therefore stay class indices, and one compiled model trains with
    any smoothing. The attack and the metrics use the original labels.

    Around adversarial training 0.1 to 0.2 helps a little, and more than 0.3 hurts (Pang et al.,
    2021). Without adversarial training it only masks gradients: it shrinks the gaps between logits,
    which misleads attacks on the cross-entropy, but attacks on the margin still succeed.

    Deviations from the `label_smoothing` of Keras: none; the losses are equal, also for a single
    sigmoid output. Cost: the cost of the objective. BatchNorm statistics see its passes.

    Args:
        smoothing: float from 0 to 1, or a `LearningRateSchedule` over optimizer steps. Defaults to
            `0.1`.
        objective: an `Objective` or its name. Defaults to `"clean"`.

    Raises:
        ValueError: for a `smoothing` outside [0, 1], and in `fit` for a compiled loss that is not a
            cross-entropy of Keras or already smooths labels, and for an objective that does not use
            the compiled loss.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.LabelSmoothing(0.2, "adversarial"))
    LabelSmoothing(smoothing=0.2, objective=Adversarial())

    References:
        - [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567)
        - [Pang et al., 2021](https://arxiv.org/abs/2010.00467)
    """

    def __init__(self, smoothing=0.1, objective="clean"):
        super().__init__(objective)
        self.smoothing = check_weight("smoothing", smoothing, maximum=1.0)

    def check(self, model, threat_model):
        super().check(model, threat_model)
        name = models.Classifier(model).loss_name
        if name not in _LOSSES:
            raise ValueError(
                "LabelSmoothing changes the labels of a cross-entropy. Compile the model with one "
                f"of the Keras losses {', '.join(_LOSSES)}. Received: loss={model.loss!r}"
            )
        if getattr(keras.losses.get(models.single(model.loss)), "label_smoothing", 0.0):
            raise ValueError(
                "The compiled loss already smooths labels. Compile it with label_smoothing=0, or "
                f"train without LabelSmoothing. Received: loss={model.loss!r}"
            )

    def loss(self, clean, adversarial):
        smoothing = at(self.smoothing, clean)
        forward_passes = [
            _Smoothed(forward_pass, smoothing) for forward_pass in (clean, adversarial)
        ]
        loss = self.objective.loss(*forward_passes)
        # An objective that never reads the compiled loss would train without smoothing.
        if not any(forward_pass.was_smoothed for forward_pass in forward_passes):
            raise ValueError(
                "LabelSmoothing changes the compiled loss, but the objective does not use it. "
                f"Received: objective={self.objective!r}"
            )
        return loss


class _Smoothed:
    """A forward pass whose compiled loss has smoothed labels."""

    def __init__(self, forward_pass, smoothing):
        self._forward_pass = forward_pass
        self._smoothing = smoothing
        self.was_smoothed = False

    def __getattr__(self, name):
        return getattr(self._forward_pass, name)

    @property
    def loss(self):
        return self._forward_pass.loss + self._forward_pass.mean(self._added())

    def weighted_loss(self, weights):
        return self._forward_pass.weighted_loss(weights) + self._forward_pass.mean(
            weights * self._added()
        )

    def _added(self):
        """Returns `smoothing * (z_y - mean_j z_j)` for each labeled example, and 0 for others."""
        self.was_smoothed = True
        logits = self._forward_pass.logits
        rows = losses.to_rows(models.single(self._forward_pass.y), logits.shape[-1])
        centred = logits - ops.mean(logits, axis=-1, keepdims=True)
        # Keras averages over the labeled examples only.
        share = ops.maximum(ops.mean(ops.sum(rows, axis=-1)), 1e-12)
        return self._smoothing * ops.sum(rows * centred, axis=-1) / share
