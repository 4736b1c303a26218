"""Logit pairing as a layer."""

import math
import numbers

import keras
from keras import ops

from keras_robust.losses import logit_distance


@keras.saving.register_keras_serializable(package="keras_robust")
class PairedLogits(keras.layers.Layer):
    """Adds `weight * mean_i mean_j (z_ij - z_adv_ij)^2` to the losses of a model (ALP).

    For models and training loops of your own, that bring adversarial examples with them: call it
    on `[clean_logits, adversarial_logits]`, and Keras adds the term to the loss in `fit`, or you
    take it from `model.losses`. Returns both as they came. With `AdvTrain`, which makes the
    adversarial examples, take the objective `LogitPairing`; there is what is known of the method:
    Kannan et al.'s (2018) 27.9% on ImageNet became 0.1% under more steps of the same attack
    (Engstrom et al., 2018). Without adversarial training it only masks gradients.

    Gradients flow to both. The term is a mean over all pairs: sample weights do not reach it.

    Deviations from the authors' code: none in this term. Cost: none beside the two passes.

    Args:
        weight: float, at least 0. Defaults to `0.5`.
        **kwargs: `name`, `dtype` and others of `keras.layers.Layer`.

    Call arguments: a list of two float tensors `(batch_size, num_classes)`.

    Raises:
        ValueError: if `weight` is negative or no number, and for inputs that are no such pair.

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
                "Argument `weight` must be a finite number that is not negative. "
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
