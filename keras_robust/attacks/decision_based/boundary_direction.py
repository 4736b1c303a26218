"""Estimates the normal of the decision boundary from predicted classes."""

from keras import ops

from keras_robust import backend
from keras_robust.attacks.decision_based.decision_oracle import numbered
from keras_robust.threat_models.threat_model import per_example


def boundary_direction(decisions, x_adv, radius, draw, num_passes):
    """Returns an estimate of the direction across the decision boundary, of arbitrary length.

    The estimate is `sum_b (phi_b - mean(phi)) u_b`. `phi_b` is 1 where the point
    `x_adv + radius u_b`, clipped to the box, is misclassified, and -1 elsewhere; `u_b` is a random
    direction, after that clipping. If all decisions agree, the estimate is `phi sum_b u_b`, as in
    the code of Chen et al. (2020).

    Args:
        decisions: `DecisionOracle`.
        x_adv: float tensor `(batch_size, ...)`, points on the boundary.
        radius: float tensor `(batch_size,)`.
        draw: function that maps the number of a pass to random directions of length 1,
            `(batch_size, samples, ...)`.
        num_passes: int or int32 tensor.
    """
    centre = ops.expand_dims(x_adv, 1)
    radius = per_example(radius, centre)

    def one_pass(number, state):
        noise = draw(number)
        points = decisions.clip(centre + radius * noise)
        noise = (points - centre) / radius
        signs = 2.0 * ops.cast(decisions.any_wrong(points, noise.shape[1]), "float32") - 1.0
        weights = ops.reshape(signs, (-1, noise.shape[1], *[1] * (len(noise.shape) - 2)))
        terms = (ops.sum(noise, axis=1), ops.sum(weights * noise, axis=1), ops.mean(signs, axis=1))
        return tuple(total + term for total, term in zip(state, terms, strict=True))

    zeros, none = ops.zeros_like(x_adv), ops.zeros(ops.shape(x_adv)[:1], "float32")
    sums, signed, mean = backend.fori_loop(0, num_passes, one_pass, (zeros, zeros, none))
    mean = per_example(mean / ops.cast(num_passes, "float32"), x_adv)
    return ops.where(ops.abs(mean) == 1.0, signed, signed - mean * sums)


def random_directions(x, num_samples, seed, is_cube):
    """Returns a function from a number to unit directions, `(batch_size, num_samples, ...)`.

    Args:
        x: float tensor `(batch_size, ...)`, for its shape.
        num_samples: int.
        seed: int32 tensor `(2,)` or `(batch_size, 2)`.
        is_cube: bool, whether the directions point to uniform points of a cube, as the authors'
            code does for `Linf`. Otherwise they are uniform on the sphere.
    """
    shape = (ops.shape(x)[0], num_samples, *x.shape[1:])
    axes = tuple(range(2, len(shape)))

    def draw(number):
        if is_cube:
            noise = backend.uniform(shape, numbered(seed, number), minval=-1.0, maxval=1.0)
        else:
            noise = backend.normal(shape, numbered(seed, number))
        return noise / ops.sqrt(ops.sum(ops.square(noise), axis=axes, keepdims=True))

    return draw
