"""Tells adversarial examples by how much squeezing changes the prediction."""

import keras
import numpy as np
from keras import ops

from keras_robust import models


@keras.saving.register_keras_serializable(package="keras_robust")
class FeatureSqueezingDetector(keras.Model):
    """Scores inputs by how much squeezers change the prediction of a model: a baseline.

    `score(x) = max_s || softmax(z(x)) - softmax(z(s(x))) ||_1`, from 0 to 2, over squeezers `s`
    such as `BitDepth` and `MedianSmoothing`. What scores above the threshold is called adversarial.
    `calibrate` sets the threshold on clean examples, which is saved with the detector.

    **It detects only attacks that do not know of it.** The score is differentiable (the squeezers
    pass gradients), so that an attack can keep it low: on MNIST and CIFAR-10 He et al. (2017), who
    did, find adversarial examples of low distortion that are not detected. Do not quote its
    detection rate as robustness. Like any threshold it turns away the share of clean examples that
    it was calibrated for.

    Deviations from the paper: non-local means is not among the squeezers here; any layer that
    keeps the shape can be. Cost: a forward pass, and one more for each squeezer.

    Args:
        model: built `keras.Model` with one input and one classification output; its logits are
            found as `evaluate` finds them. Runs in inference mode.
        squeezers: list of at least one layer that maps inputs to inputs.
        threshold: float, or `None` before `calibrate`. Defaults to `None`.
        **kwargs: `name`, `dtype` and others of `keras.Model`.

    Call arguments: `x`, float `(batch_size, ...)`. Returns scores, float32 `(batch_size,)`.

    Raises:
        ValueError: for a model that is none, squeezers that are no layers, a threshold that is no
            number, and for `is_adversarial` without a threshold.

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
        """Sets the threshold so that at most a share of clean examples is called adversarial.

        Args:
            x: array `(n, ...)`, clean examples; the paper takes half of those of training.
            false_positive_rate: float in `[0, 1)`. Defaults to `0.05`.
            batch_size: int. Does not change the result. Defaults to `256`.

        Returns:
            float, the threshold: the smallest score of `x` above which there is no larger share.
        """
        if not 0.0 <= false_positive_rate < 1.0:
            raise ValueError(
                "Argument `false_positive_rate` must be in [0, 1). "
                f"Received: false_positive_rate={false_positive_rate!r}"
            )
        scores = np.sort(self._scores(x, batch_size))
        models.predict_clean_logits(self.model, x, batch_size)  # Refuses what cannot be read.
        # What is meant as a whole number of examples must not lose one to rounding.
        allowed = int(false_positive_rate * len(scores) + 1e-9)
        self.threshold = float(scores[len(scores) - 1 - allowed])
        return self.threshold

    def is_adversarial(self, x, *, batch_size=256):
        """Returns a bool array `(n,)`, whether the scores are above the threshold."""
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
