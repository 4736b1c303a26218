"""The certificate of randomised smoothing as a function in a SavedModel."""

import tensorflow as tf

from keras_robust import models

# The graph is TensorFlow's on every backend.
from keras_robust.backend.tensorflow import ops as graph
from keras_robust.layers import RandomizedSmoothing

# A larger one makes it worth while to ask until an answer is wrong.
_MAX_ALPHA = 0.05
_BLOCK = 100
_SELECTION = 100
# Each halves the interval.
_BISECTIONS = 50


def certify_signature(model, specs, guarded, max_samples, archive):
    """Returns the function `certify` and its specs for a `RandomizedSmoothing`, else `None`.

    Its inputs are those of the model, and `seed`, int32 `(2,)`, `num_samples`, int32, the copies
    that bound the probability, and `alpha`, float32, the probability that a radius is too large. It
    returns `label`, int64, -1 where it abstains, `radius`, float32, in L2, and `count`, int32, how
    many of the copies got the class. As in `certification.Smoothing`, 100 copies choose the class
    and `num_samples`, rounded up to hundreds, bound its probability. All inputs of a batch get
    the same noise, so that the same seed gives the same answer whatever else is in the batch.
    Whoever asks for certificates draws the seed, before any answer: to choose a seed by its answers
    voids the certificate. Scalar inputs need the columnar form of a REST request.

    Args:
        model: the model.
        specs: list of `tf.TensorSpec`, of its inputs.
        guarded: function that puts the guards in front of a list of tensors.
        max_samples: int, the most copies that a request may ask for, of all its inputs together:
            they are the time that the answer takes.
        archive: `backend.Archive` of the model.
    """
    if not isinstance(model, RandomizedSmoothing):
        return None
    message = (
        f"Expected num_samples from 1, in hundreds and times the number of inputs at most "
        f"{max_samples}, and alpha above 0 and at most {_MAX_ALPHA}"
    )
    logits = archive.in_graph(models.Classifier(model.model).logits)
    guard = archive.in_graph(lambda x: guarded([x])[0])

    def certify(x, seed, num_samples, alpha):
        # Rounded up as below, and in integers that do not overflow.
        copies = _BLOCK * (1 + (tf.cast(num_samples, tf.int64) - 1) // _BLOCK)
        total = copies * tf.maximum(tf.shape(x, tf.int64)[0], 1)
        ranges = [num_samples > 0, total <= max_samples, alpha > 0.0, alpha <= _MAX_ALPHA]
        x = tf.cast(guard(graph.require_all(ranges, message, x)), tf.float32)
        votes = _voter(logits, x, model.noise_stddev)
        # Independent of each other: the same copies must not choose the class and judge it.
        label = tf.argmax(votes(graph.fold_in(seed, 0), _SELECTION), axis=-1)
        counts = votes(graph.fold_in(seed, 1), num_samples)
        count = tf.gather(counts, label, axis=-1, batch_dims=1)
        lower = lower_bound(count, -(-num_samples // _BLOCK) * _BLOCK, alpha)
        radius = model.noise_stddev * tf.math.ndtri(tf.maximum(lower, 0.5))
        label = tf.where(lower > 0.5, label, -1)
        return {"label": label, "radius": tf.cast(radius, tf.float32), "count": count}

    scalars = [
        tf.TensorSpec((2,), tf.int32, name="seed"),
        tf.TensorSpec((), tf.int32, name="num_samples"),
        tf.TensorSpec((), tf.float32, name="alpha"),
    ]
    return certify, [*specs, *scalars]


def lower_bound(count, total, alpha):
    """Returns the one-sided Clopper-Pearson bound at level `1 - alpha`, from below, float64.

    The `alpha` quantile of `Beta(count, total - count + 1)`, which TensorFlow lacks, by bisection.
    """
    count, total, alpha = (tf.cast(value, tf.float64) for value in (count, total, alpha))
    shape_a, shape_b = tf.maximum(count, 1.0), total - count + 1.0
    low, high = tf.zeros_like(count), tf.ones_like(count)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_below = tf.math.betainc(shape_a, shape_b, middle) < alpha
        low, high = tf.where(is_below, middle, low), tf.where(is_below, high, middle)
    # The lower end: an error of rounding makes a radius smaller.
    return tf.where(count > 0.0, low, tf.zeros_like(low))


def _voter(logits_of, x, stddev):
    """Returns a function from a seed and a number of copies to the votes `(batch, classes)`."""

    def draw(seed):
        shape = tf.concat([[_BLOCK], tf.shape(x)[1:]], axis=0)
        noise = stddev * graph.normal(shape, seed)

        def one(image):
            logits = logits_of(image[None] + noise)
            counted = tf.reduce_all(tf.math.is_finite(logits), axis=-1, keepdims=True)
            rows = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], dtype=tf.int32)
            return tf.reduce_sum(rows * tf.cast(counted, tf.int32), axis=0)

        num_classes = logits_of(x).shape[-1]
        return tf.map_fn(one, x, fn_output_signature=tf.TensorSpec((num_classes,), tf.int32))

    def votes(seed, num_samples):
        blocks = -(-num_samples // _BLOCK)
        first = draw(graph.fold_in(seed, 0))
        return tf.while_loop(
            lambda step, total: step < blocks,
            lambda step, total: (step + 1, total + draw(graph.fold_in(seed, step))),
            (1, first),
            shape_invariants=(tf.TensorShape(()), first.shape),
        )[1]

    return votes
