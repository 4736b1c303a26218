"""Randomized smoothing of a classifier."""

import contextlib
import math
import numbers

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_robust import backend
from keras_robust import models
from keras_robust.configurable import short_repr
from keras_robust.layers.input_transformation import check_count
from keras_robust.threat_models.parsing import parse_fraction

_MAX_SAMPLES = 10**7
_MAX_SEED = 2**31 - 1  # Random numbers are functions of int32 seeds.


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomizedSmoothing(keras.Model):
    """The majority vote of a model over copies of its input with Gaussian noise.

    `g(x)_c = 1/n sum_k 1[argmax f(x + n_k) = c]`, `n_k ~ N(0, sigma^2 I)`: the share of copies in
    each class. With more and more copies its class converges to the class of the smoothed
    classifier, for which `certify(..., method="smoothing")` proves radii in L2. The noise is not
    clipped to the range of the inputs. Train the model with noise of the same size: use
    `objectives.GaussianNoise`, or call `fit` on this layer, which in training mode draws one copy
    and returns its probabilities.

    **Limits.** The certificate is for infinitely many copies. Near a tie the vote of `num_samples`
    copies may differ, which `decide` detects. Every call draws fresh noise, so repeated calls
    return different shares. With a `seed` the noise is the same for every call and every input.
    That is reproducible, but an attacker who knows the seed attacks an ordinary function, to which
    no certificate applies. Attack the layer with fresh noise and averaged gradients. Its values are
    votes, and its gradient is the gradient of the mean probabilities, as in SmoothAdv. The gradient
    of a vote itself is zero, which would look robust. `export_saved_model` takes fresh noise from
    the system; the `model.export` of Keras saves the state of a generator, so that every process
    that loads the model draws the same noise.

    A copy with non-finite logits votes for no class, so the shares may sum to less than 1. An input
    without any vote gets NaN. Put an `InputGuard`, or any other check of the input range, in front
    of this layer, because the noisy copies leave the range.

    Deviations from the paper: none. Cost: `num_samples` forward passes, one after the other. An
    attack calls the model thousands of times: pass it a copy with few samples, for example
    `RandomizedSmoothing(smoothed.model, 0.25, num_samples=10)`, and let the attack average
    gradients.

    Args:
        model: built `keras.Model` with one input and one classification output. The layer finds its
            logits in the same way as `evaluate`. A single sigmoid counts as two classes. The model
            may contain an `InputGuard` that clips, but none that rejects.
        noise_stddev: float above 0, or a string like `"64/255"`: `sigma`, in the units of the
            input. Defaults to `0.25`.
        num_samples: int, `n`. Defaults to `100`.
        seed: int for the same noise at every call, `None` for fresh noise. Defaults to `None`.
        **kwargs: arguments of `keras.Model`, for example `name` and `dtype`.

    Call arguments: `x`, float `(batch_size, ...)`; `training`, bool. Returns probabilities, float32
    `(batch_size, num_classes)`. Compile it with a loss of probabilities (`from_logits=False`).

    Raises:
        ValueError: if `model` is not a `keras.Model`, and for arguments out of range.

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
        noise_stddev = parse_fraction("noise_stddev", noise_stddev)
        is_number = isinstance(noise_stddev, numbers.Real) and not isinstance(noise_stddev, bool)
        if not is_number or not 0.0 < noise_stddev < math.inf:
            raise ValueError(
                "Argument `noise_stddev` must be a number above 0. "
                f"Received: noise_stddev={noise_stddev!r}"
            )
        _check_guards(model)
        models.refuse_preprocessor(model)
        self.model = model
        self.noise_stddev = float(noise_stddev)
        self.num_samples = check_count("num_samples", num_samples, 1, _MAX_SAMPLES)
        self.seed = None if seed is None else check_count("seed", seed, 0, _MAX_SEED)
        # Training draws fresh noise at every step, with or without a seed.
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._draw_seed = None
        shape = getattr(model, "input_shape", None) if model.built else None
        if isinstance(shape, tuple):
            self.build(shape)

    def build(self, input_shape):
        if not self.model.built:
            self.model.build(input_shape)
        super().build(input_shape)

    def call(self, x, training=False):
        classifier = models.Classifier(self.model)
        x = ops.cast(x, "float32")
        if training:
            noise = backend.normal(ops.shape(x), self.seed_generator.next())
            outputs = classifier(x + self.noise_stddev * noise, training=True)
            return keras.activations.softmax(classifier.to_logits(outputs))
        counts, total = self._count(x)
        votes = ops.cast(counts, "float32") / self.num_samples
        # Half a vote instead of none keeps the logarithm finite.
        return _as_probabilities(votes, total / self.num_samples, 0.5 / self.num_samples)

    def decide(self, x, alpha=0.001, *, batch_size=256):
        """Returns the class of the smoothed classifier, int64 `(n,)`, or -1 for no decision.

        The decision is the class with most votes if a two-sided binomial test at level `alpha`
        separates it from the second. For each input, the probability that it differs from the
        decision of infinitely many copies is at most `alpha`.

        Args:
            x: array `(n, ...)`.
            alpha: float between 0 and 1. Defaults to `0.001`.
            batch_size: int. Defaults to `256`.
        """
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"Argument `alpha` must be between 0 and 1. Received: alpha={alpha!r}")
        # Raises a helpful error if the model or the examples cannot be used.
        models.predict_clean_logits(self.model, x, batch_size)
        batches = (self._count(batch)[0] for batch in models.batches_of(x, batch_size))
        counts = np.concatenate([ops.convert_to_numpy(rows) for rows in batches]).astype("int64")
        second, first = np.sort(counts, axis=-1)[:, -2:].T
        # The two-sided test of Cohen et al. (2019). `sf(k - 1)` is the probability of k or more.
        p_values = 2.0 * stats.binom.sf(first - 1, first + second, 0.5)
        return np.where(p_values <= alpha, np.argmax(counts, axis=-1), -1)

    @contextlib.contextmanager
    def seeds_from(self, draw):
        """Context in which fresh noise uses the seeds `draw()`, int32 `(2,)`, instead of a state.

        Saved graphs need it, because a saved state makes every process draw the same noise.
        """
        before, self._draw_seed = self._draw_seed, draw
        try:
            yield
        finally:
            self._draw_seed = before

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

    def _count(self, x):
        """Returns the number of votes, int32, and the sum of the probabilities of the copies."""
        classifier, x = models.Classifier(self.model), ops.cast(x, "float32")
        shape, seed = ops.shape(x), self._seed()
        if self.seed is not None:
            # The same noise for all rows, so that an answer does not depend on the other rows.
            shape = (1, *shape[1:])

        def draw(number, sums):
            noise = backend.normal(shape, backend.fold_in(seed, number))
            fresh = _vote(classifier.logits(x + self.noise_stddev * noise))
            return fresh if sums is None else tuple(map(ops.add, sums, fresh))

        # The first draw gives the loop sums of the right shape and dtype.
        return backend.repeat(
            self.num_samples - 1, lambda step, sums: draw(step + 1, sums), draw(0, None)
        )

    def _seed(self):
        if self.seed is None:
            return self.seed_generator.next() if self._draw_seed is None else self._draw_seed()
        return ops.convert_to_tensor([self.seed, 0], "int32")


def _check_guards(model):
    guards = models.rejecting_layers(model)
    if guards:
        raise ValueError(
            "The noisy copies leave the bounds of the guard inside the model: put the guard in "
            "front of the smoothing, or use InputGuard(..., outside='clip') inside the model. "
            f"Received: the layer {guards[0].name!r} with bounds "
            f"{short_repr(guards[0].get_config()['bounds'])}"
        )


def _vote(logits):
    """Returns a vote per row, int32, and the probabilities; both are 0 for non-finite logits."""
    is_finite = ops.all(ops.isfinite(logits), axis=-1, keepdims=True)
    # Replace NaN before the softmax: its gradient would be NaN even under a later `where`.
    logits = ops.where(is_finite, logits, ops.zeros_like(logits))
    votes = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="int32")
    votes = votes * ops.cast(is_finite, "int32")
    return votes, ops.where(is_finite, ops.softmax(logits), ops.zeros_like(logits))


def _as_probabilities(votes, mean, least):
    """Returns the votes with the gradient of the mean probabilities, and attaches logits."""
    is_answered = ops.any(votes > 0.0, axis=-1, keepdims=True)
    votes = ops.where(is_answered, votes, ops.full_like(votes, float("nan")))
    log_mean = ops.log(ops.maximum(mean, 1e-30))
    # The part with the gradient is exactly 0 in value, so the outputs equal the votes.
    outputs = ops.stop_gradient(votes) + (mean - ops.stop_gradient(mean))
    logits = ops.stop_gradient(ops.log(ops.maximum(votes, least)))
    # Losses and attacks use these logits, which have a gradient even for classes without votes.
    backend.set_keras_logits(outputs, logits + (log_mean - ops.stop_gradient(log_mean)))
    return outputs
