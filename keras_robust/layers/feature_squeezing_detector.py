"""Detector of adversarial examples by feature squeezing."""

import keras
import numpy as np
from keras import ops

from keras_robust import models


@keras.saving.register_keras_serializable(package="keras_robust")
class FeatureSqueezingDetector(keras.Model):
    """Scores inputs by how much squeezers change the prediction of a model: a baseline.

    `score(x) = max_s || softmax(z(x)) - softmax(z(s(x))) ||_1`, from 0 to 2, over squeezers `s`
    like `BitDepth` and `MedianSmoothing`. Inputs with a score above the threshold count as
    adversarial. `calibrate` sets the threshold on clean examples, and the detector saves it.

    **It detects only attacks that ignore it.** The score is differentiable, because the squeezers
    pass gradients, so an attack can keep it low. He et al. (2017) found undetected adversarial
    examples of low distortion on MNIST and CIFAR-10 in this way. Do not report its detection rate
    as robustness. The detector also rejects the share of clean examples that `calibrate` allows.

    Deviations from the paper: the package has no non-local means, but a squeezer can be any layer
    that keeps the shape. Cost: a forward pass, and one more for each squeezer.

    Args:
        model: built `keras.Model` with one input and one classification output. The detector finds
            its logits in the same way as `evaluate`, and runs it in inference mode.
        squeezers: list of at least one layer that maps inputs to inputs.
        threshold: float, or `None` before `calibrate`. Defaults to `None`.
        **kwargs: arguments of `keras.Model`, for example `name` and `dtype`.

    Call arguments: `x`, float `(batch_size, ...)`. Returns scores, float32 `(batch_size,)`.

    Raises:
        ValueError: if `model` is not a `keras.Model`, a squeezer is not a layer, or `threshold` is
            not a number, and in `is_adversarial` without a threshold.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(9.0)])
    >>> detector = kr.layers.FeatureSqueezingDetector(model, [kr.layers.BitDepth(1)])
    >>> clean = np.array([[0.0, 1.0], [0.9, 0.0], [0.0, 0.8], [1.0, 0.1]], "float32")
    >>> print(f"{detector.calibrate(clean, false_positive_rate=0.25):.4f}")
    0.0004
    >>> print(detector.is_adversarial(np.array([[0.4, 0.6], [0.0, 1.0]], "float32")))
    [ True False]

    References:
        - [Xu et al., 2018](https://arxiv.org/abs/1704.01155)
        - [He et al., 2017](https://arxiv.org/abs/1706.04701)
        - [Carlini and Wagner, 2017](https://arxiv.org/abs/1705.07263)
    """

    def __init__(self, model, squeezers, threshold=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(model, keras.Model):
            raise ValueError(f"Argument `model` must be a keras.Model. Received: model={model!r}")
        squeezers = list(squeezers) if isinstance(squeezers, (list, tuple)) else [squeezers]
        if not squeezers or not all(isinstance(one, keras.Layer) for one in squeezers):
            raise ValueError(
                "Argument `squeezers` must be a list of at least one Keras layer, such as "
                f"BitDepth(5). Received: squeezers={squeezers!r}"
            )
        models.refuse_preprocessor(model)
        self.model = model
        self.squeezers = squeezers
        self.threshold = None if threshold is None else _check_threshold(threshold)

    def build(self, input_shape):
        for squeezer in self.squeezers:
            squeezer.build(input_shape)
        super().build(input_shape)

    def call(self, x):
        classifier = models.Classifier(self.model)
        x = ops.cast(x, "float32")
        probabilities = ops.softmax(classifier.logits(x))
        distances = [
            ops.sum(ops.abs(probabilities - ops.softmax(classifier.logits(squeezer(x)))), axis=-1)
            for squeezer in self.squeezers
        ]
        return ops.max(ops.stack(distances), axis=0)

    def calibrate(self, x, false_positive_rate=0.05, *, batch_size=256):
        """Sets the threshold so that at most a given share of clean examples scores above it.

        Args:
            x: array `(n, ...)`, clean examples. The paper takes half of the training examples.
            false_positive_rate: float in `[0, 1)`, the share. Defaults to `0.05`.
            batch_size: int. It does not change the result. Defaults to `256`.

        Returns:
            float, the threshold: the smallest score of `x` that keeps this share.
        """
        if not 0.0 <= false_positive_rate < 1.0:
            raise ValueError(
                "Argument `false_positive_rate` must be in [0, 1). "
                f"Received: false_positive_rate={false_positive_rate!r}"
            )
        scores = np.sort(self._scores(x, batch_size))
        # Raises a helpful error if the model or the examples cannot be used.
        models.predict_clean_logits(self.model, x, batch_size)
        # The tolerance keeps a product that is a whole number from rounding down.
        allowed = int(false_positive_rate * len(scores) + 1e-9)
        self.threshold = float(scores[len(scores) - 1 - allowed])
        return self.threshold

    def is_adversarial(self, x, *, batch_size=256):
        """Returns a bool array `(n,)`: whether each score is above the threshold."""
        if self.threshold is None:
            raise ValueError(
                "The detector has no threshold yet: call `calibrate` on clean examples. "
                "Received: threshold=None"
            )
        return self._scores(x, batch_size) > self.threshold

    def get_config(self):
        parts = {"model": self.model, "squeezers": self.squeezers}
        saved = keras.saving.serialize_keras_object(parts)
        return {**super().get_config(), **saved, "threshold": self.threshold}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, **keras.saving.deserialize_keras_object(_parts(config))})

    def _scores(self, x, batch_size):
        if not len(x):
            raise ValueError(f"Expected at least one example. Received: {len(x)} examples")
        batches = [ops.convert_to_numpy(self(rows)) for rows in models.batches_of(x, batch_size)]
        return np.concatenate(batches)


def _parts(config):
    return {name: config[name] for name in ("model", "squeezers")}


def _check_threshold(threshold):
    try:
        return float(threshold)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Argument `threshold` must be a number or None. Received: threshold={threshold!r}"
        ) from error
