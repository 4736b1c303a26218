"""Label smoothing, around any objective that uses the compiled loss."""

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
    """Label smoothing: the true class is to have probability `1 - smoothing + smoothing / C`.

    Every other of the `C` classes gets `smoothing / C`. Wherever the objective within uses the
    compiled cross-entropy, on clean or adversarial examples,
    `CE(smoothed y, z) = CE(y, z) + smoothing * (z_y - mean_j z_j)` takes its place: for `Clean` on
    the clean examples, for `Adversarial` on the adversarial ones, for `Mixed` on both, for `TRADES`
    in the clean term. So class indices need no one-hot rows, and one compiled model trains with any
    smoothing. The attack keeps the labels as they are, and so do metrics.

    Around adversarial training 0.1 to 0.2 helps a little, and more than 0.3 hurts (Pang et al.,
    2021). Alone it only masks: it shrinks the gaps between logits, which misleads attacks on the
    cross-entropy, and against attacks on the margin the model is about as weak as without it.

    Deviations from Keras's `label_smoothing`: none; the terms are equal, a single sigmoid output
    included. Cost: that of the objective. BatchNorm statistics see what the objective shows them.

    Args:
        smoothing: float from 0 to 1, or a `LearningRateSchedule` over optimizer steps. Defaults to
            `0.1`.
        objective: an `Objective` or its name. Defaults to `"clean"`.

    Raises:
        ValueError: for a `smoothing` outside of [0, 1], and in `fit` for a compiled loss that is
            not one of Keras's cross-entropies or smooths already, and for an objective that does
            not use it.

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
                f"of Keras's: {', '.join(_LOSSES)}. Received: loss={model.loss!r}"
            )
        if getattr(keras.losses.get(models.single(model.loss)), "label_smoothing", 0.0):
            raise ValueError(
                "The compiled loss smooths labels already. Compile it with label_smoothing=0, or "
                f"train without LabelSmoothing. Received: loss={model.loss!r}"
            )

    def loss(self, clean, adversarial):
        smoothing = at(self.smoothing, clean)
        streams = [_Smoothed(stream, smoothing) for stream in (clean, adversarial)]
        loss = self.objective.loss(*streams)
        if not any(stream.was_smoothed for stream in streams):
            raise ValueError(
                "LabelSmoothing changes the compiled loss, which the objective does not use. "
                f"Received: objective={self.objective!r}"
            )
        return loss


class _Smoothed:
    """A stream whose compiled loss has smoothed labels."""

    def __init__(self, stream, smoothing):
        self._stream = stream
        self._smoothing = smoothing
        self.was_smoothed = False

    def __getattr__(self, name):
        return getattr(self._stream, name)

    @property
    def loss(self):
        return self._stream.loss + self._stream.mean(self._added())

    def weighted_loss(self, weights):
        return self._stream.weighted_loss(weights) + self._stream.mean(weights * self._added())

    def _added(self):
        """`smoothing * (z_y - mean_j z_j)` for each example that has a label, and 0 for others."""
        self.was_smoothed = True
        logits = self._stream.logits
        rows = losses.to_rows(models.single(self._stream.y), logits.shape[-1])
        centred = logits - ops.mean(logits, axis=-1, keepdims=True)
        # Keras averages over the examples that have a label.
        share = ops.maximum(ops.mean(ops.sum(rows, axis=-1)), 1e-12)
        return self._smoothing * ops.sum(rows * centred, axis=-1) / share
