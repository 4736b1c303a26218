"""Signature `certify`: certificates of randomized smoothing in a SavedModel."""

import tensorflow as tf

from keras_robust import models

# A SavedModel holds a TensorFlow graph on every backend.
from keras_robust.backend.tensorflow import ops as graph
from keras_robust.layers import RandomizedSmoothing

# With a larger alpha an attacker could repeat requests until an answer is wrong.
_MAX_ALPHA = 0.05
_BLOCK = 100
_SELECTION = 100
# Bisection steps; each halves the interval.
_BISECTIONS = 50


def certify_signature(served, max_samples, archive):
    """Returns the function `certify` and its specs for a `RandomizedSmoothing`, else `None`.

    The inputs of `certify` are the inputs of the model; `seed`, int32 `(2,)`; `num_samples`, int32,
    the number of copies that bound the probability; and `alpha`, float32, the probability that a
    radius is too large. It returns `label`, int64, with -1 where it abstains; `radius`, float32, in
    L2; and `count`, int32, the number of copies that got the class. Like in
    `certification.Smoothing`, 100 copies choose the class, and `num_samples` copies, rounded up to
    hundreds, bound its probability. All inputs of a batch get the same noise, so the answer for a
    seed does not depend on the rest of the batch. The client must draw the seed before it sees any
    answer: choosing a seed by its answers voids the certificate. Scalar inputs need the columnar
    format of a REST request.

    Args:
        served: `ServedModel`.
        max_samples: int, the most copies that a request may ask for, summed over its inputs. It
            limits the time that an answer takes.
        archive: `ExportArchive` of the model.
    """
    model = served.model
    if not isinstance(model, RandomizedSmoothing):
        return None
    message = (
        f"Expected num_samples from 1, in hundreds and times the number of inputs at most "
        f"{max_samples}, and alpha above 0 and at most {_MAX_ALPHA}"
    )
    logits = archive.in_graph(models.Classifier(model.model).logits)
    guard = archive.in_graph(lambda x: served.apply_guards([x])[0])

    def certify(x, seed, num_samples, alpha):
        # Count copies like the loop below does, and in int64 so that the product cannot overflow.
        copies = _BLOCK * (1 + (tf.cast(num_samples, tf.int64) - 1) // _BLOCK)
        total = copies * tf.maximum(tf.shape(x, tf.int64)[0], 1)
        ranges = [num_samples > 0, total <= max_samples, alpha > 0.0, alpha <= _MAX_ALPHA]
        x = tf.cast(guard(graph.require_all(ranges, message, x)), tf.float32)
        votes = _voter(logits, x, model.noise_stddev)
        # Different seeds: the copies that choose the class must not also bound its probability.
        label = tf.argmax(votes(graph.fold_in(seed, 0), _SELECTION), axis=-1)
        counts = votes(graph.fold_in(seed, 1), num_samples)
        count = tf.gather(counts, label, axis=-1, batch_dims=1)
        lower = lower_bound(count, -(-num_samples // _BLOCK) * _BLOCK, alpha)
        # The radius of Cohen et al. (2019), `sigma * Phi^-1(p)` for a probability of at least `p`.
        radius = model.noise_stddev * tf.math.ndtri(tf.maximum(lower, 0.5))
        label = tf.where(lower > 0.5, label, -1)
        return {"label": label, "radius": tf.cast(radius, tf.float32), "count": count}

    scalars = [
        tf.TensorSpec((2,), tf.int32, name="seed"),
        tf.TensorSpec((), tf.int32, name="num_samples"),
        tf.TensorSpec((), tf.float32, name="alpha"),
    ]
    return certify, [*served.inputs.specs, *scalars]


def lower_bound(count, total, alpha):
    """Returns the one-sided lower Clopper-Pearson bound at level `1 - alpha`, float64.

    It is the `alpha` quantile of `Beta(count, total - count + 1)`. TensorFlow has no such function,
    so bisection finds it.
    """
    count, total, alpha = (tf.cast(value, tf.float64) for value in (count, total, alpha))
    # `betainc` needs positive arguments; the result for a count of 0 is replaced below.
    shape_a, shape_b = tf.maximum(count, 1.0), total - count + 1.0
    low, high = tf.zeros_like(count), tf.ones_like(count)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_below = tf.math.betainc(shape_a, shape_b, middle) < alpha
        low, high = tf.where(is_below, middle, low), tf.where(is_below, high, middle)
    # Return the lower end, so that rounding can only make a radius smaller.
    return tf.where(count > 0.0, low, tf.zeros_like(low))


def _voter(logits_of, x, stddev):
    """Returns a function from a seed and a number of copies to votes `(batch, num_classes)`."""

    def draw(seed):
        shape = tf.concat([[_BLOCK], tf.shape(x)[1:]], axis=0)
        noise = stddev * graph.normal(shape, seed)

        def one(image):
            logits = logits_of(image[None] + noise)
            # argmax of NaN returns class 0, so a copy with such logits must not vote.
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
