"""Adversarial logit pairing as a layer."""

import math
import numbers

import keras
from keras import ops

from keras_robust.losses import logit_distance


@keras.saving.register_keras_serializable(package="keras_robust")
class PairedLogits(keras.layers.Layer):
    """Adds `weight * mean_i mean_j (z_ij - z_adv_ij)^2` to the losses of a model (ALP).

    The layer is for your own models and training loops that already have adversarial examples.
    Call it on `[clean_logits, adversarial_logits]`; it returns both unchanged. Keras adds the term
    to the loss in `fit`, and a custom loop finds it in `model.losses`. `AdvTrain` makes its own
    adversarial examples: use the objective `LogitPairing` there.

    Published attacks: the 27.9% of Kannan et al. (2018) on ImageNet became 0.1% under more steps of
    the same attack (Engstrom et al., 2018). Without adversarial training the term only masks
    gradients.

    Gradients flow to both tensors. The term is a mean over all pairs and ignores sample weights.

    Deviations from the authors' code: none in this term. Cost: negligible next to the two passes.

    Args:
        weight: float, at least 0. Defaults to `0.5`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: a list of two float tensors `(batch_size, num_classes)`.

    Raises:
        ValueError: if `weight` is negative or not a number, or the inputs are not two
            tensors of logits.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> layer = kr.layers.PairedLogits(weight=0.5)
    >>> pair = layer([np.array([[1.0, 2.0]], "float32"), np.array([[1.0, 4.0]], "float32")])
    >>> print(float(layer.losses[0]))
    1.0

    References:
        - [Kannan et al., 2018](https://arxiv.org/abs/1803.06373)
        - [Engstrom et al., 2018](https://arxiv.org/abs/1807.10272)
    """

    def __init__(self, weight=0.5, **kwargs):
        super().__init__(autocast=False, **kwargs)
        is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight < 0.0:
            raise ValueError(
                "Argument `weight` must be a finite number of at least 0. "
                f"Received: weight={weight!r}"
            )
        self.weight = weight

    def build(self, input_shape):
        is_pair = isinstance(input_shape, (list, tuple)) and len(input_shape) == 2
        shapes = [shape for shape in input_shape if isinstance(shape, (list, tuple))]
        if not is_pair or len(shapes) != 2 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(
                "Expected a list of two: clean and adversarial logits, (batch_size, num_classes) "
                f"each. Received: inputs of shape {input_shape}"
            )

    def call(self, inputs):
        clean, adversarial = (ops.cast(logits, "float32") for logits in inputs)
        self.add_loss(self.weight * ops.mean(logit_distance(clean, adversarial)))
        return inputs

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
