"""A classifier that asks another one about noisy copies of its input."""

import math
import numbers

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_robust import backend
from keras_robust.layers.input_transformation import check_count

_MAX_SAMPLES = 10**7
_MAX_SEED = 2**31 - 1


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomizedSmoothing(keras.Model):
    """The majority vote of a model over copies of its input with Gaussian noise.

    `g(x)_c = 1/n sum_k 1[argmax f(x + n_k) = c]`, `n_k ~ N(0, sigma^2 I)`: the share of copies in
    each class. With ever more copies its class is that of the smoothed classifier, for which
    `certify(..., method="smoothing")` proves radii in L2. Noise is not clipped to the range of the
    inputs. Train the model with noise of the same size: with `objectives.GaussianNoise`, or by
    `fit` of this one, which in training mode draws one copy and returns its probabilities.

    **What it does not do.** The certificate is for infinitely many copies: with `num_samples`
    copies the vote may come out otherwise near a tie, which `decide` tells. Every call draws fresh
    noise, so that answers differ from call to call. With a `seed` the noise is the same for every
    call and every input: reproducible, but an attacker who knows it attacks an ordinary function,
    to which no certificate applies. Attack it with fresh noise and averaged gradients: the values
    are votes, and the gradient is that of the mean probabilities, so that attacks see through the
    vote (as SmoothAdv does); without that a vote has gradient zero, and looks robust.

    Deviations from the paper: none. Cost: `num_samples` forward passes, one after the other.

    Args:
        model: built `keras.Model` with one input and one classification output; its logits are
            found as `evaluate` finds them. A single sigmoid counts as two classes.
        noise_stddev: float above 0, `sigma`, in the units of the input. Defaults to `0.25`.
        num_samples: int, `n`. Defaults to `100`.
        seed: int for the same noise at every call, `None` for fresh noise. Defaults to `None`.
        **kwargs: `name`, `dtype` and others of `keras.Model`.

    Call arguments: `x`, float `(batch_size, ...)`; `training`, bool. Returns probabilities, float32
    `(batch_size, num_classes)`; a compiled loss takes probabilities (`from_logits=False`).

    Raises:
        ValueError: for a model that is none, and for arguments out of range.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(9.0)])
    >>> smoothed = kr.layers.RandomizedSmoothing(model, noise_stddev=0.2, num_samples=50, seed=0)
    >>> print(smoothed.decide(np.array([[0.9, 0.1], [0.5, 0.5]], "float32")))
    [ 0 -1]

    References:
        - [Cohen et al., 2019](https://arxiv.org/abs/1902.02918)
        - [Salman et al., 2019](https://arxiv.org/abs/1906.04584), on attacking it.
    """

    def __init__(self, model, noise_stddev=0.25, num_samples=100, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(model, keras.Model):
            raise ValueError(f"Argument `model` must be a keras.Model. Received: model={model!r}")
        is_number = isinstance(noise_stddev, numbers.Real) and not isinstance(noise_stddev, bool)
        if not is_number or not 0.0 < noise_stddev < math.inf:
            raise ValueError(
                "Argument `noise_stddev` must be a number above 0. "
                f"Received: noise_stddev={noise_stddev!r}"
            )
        self.model = model
        self.noise_stddev = float(noise_stddev)
        self.num_samples = check_count("num_samples", num_samples, 1, _MAX_SAMPLES)
        self.seed = None if seed is None else check_count("seed", seed, 0, _MAX_SEED)
        # Training draws fresh noise in any case.
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        if not self.model.built:
            self.model.build(input_shape)
        super().build(input_shape)

    def call(self, x, training=False):
        classifier = backend.Classifier(self.model)
        x = ops.cast(x, "float32")
        if training:
            noise = backend.normal(ops.shape(x), self.seed_generator.next())
            outputs = classifier(x + self.noise_stddev * noise, training=True)
            return keras.activations.softmax(classifier.to_logits(outputs))
        shape, seed = ops.shape(x), self._seed()
        if self.seed is not None:
            # One noise for all rows: the answer does not depend on what else is in the batch.
            shape = (1, *shape[1:])

        def draw(number, sums):
            noise = backend.normal(shape, backend.fold_in(seed, number))
            logits = classifier.logits(x + self.noise_stddev * noise)
            votes = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="float32")
            fresh = votes, ops.softmax(logits)
            return fresh if sums is None else tuple(map(ops.add, sums, fresh))

        sums = backend.repeat(
            self.num_samples - 1, lambda step, sums: draw(step + 1, sums), draw(0, None)
        )
        votes, mean = (total / self.num_samples for total in sums)
        return _as_probabilities(votes, mean, 0.5 / self.num_samples)

    def decide(self, x, alpha=0.001, *, batch_size=256):
        """Returns the class of the smoothed classifier, int64 `(n,)`, or -1 for no decision.

        The class with most votes, if a two-sided binomial test at level `alpha` tells it from the
        second; it is another one than that of infinitely many copies with a probability of at most
        `alpha` for each input.

        Args:
            x: array `(n, ...)`.
            alpha: float between 0 and 1. Defaults to `0.001`.
            batch_size: int. Defaults to `256`.
        """
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"Argument `alpha` must be between 0 and 1. Received: alpha={alpha!r}")
        rows = [ops.convert_to_numpy(self(batch)) for batch in backend.batches_of(x, batch_size)]
        counts = np.rint(self.num_samples * np.concatenate(rows)).astype("int64")
        second, first = np.sort(counts, axis=-1)[:, -2:].T
        p_values = 2.0 * stats.binom.sf(first - 1, first + second, 0.5)
        return np.where(p_values <= alpha, np.argmax(counts, axis=-1), -1)

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "noise_stddev": self.noise_stddev,
            "num_samples": self.num_samples,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config["model"])
        return cls(**{**config, "model": model})

    def _seed(self):
        if self.seed is None:
            return self.seed_generator.next()
        return ops.convert_to_tensor([self.seed, 0], "int32")


def _as_probabilities(votes, mean, least):
    """Returns the votes with the gradient of the mean probabilities, and with logits of them."""
    log_mean = ops.log(ops.maximum(mean, 1e-30))
    # In this order what carries the gradient adds exactly 0 to the value.
    outputs = ops.stop_gradient(votes) + (mean - ops.stop_gradient(mean))
    logits = ops.stop_gradient(ops.log(ops.maximum(votes, least)))
    # Losses and attacks look here, as behind a softmax, and find a gradient where votes are 0.
    backend.set_keras_logits(outputs, logits + (log_mean - ops.stop_gradient(log_mean)))
    return outputs
