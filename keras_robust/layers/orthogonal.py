"""Orthogonalization of matrices by Bjorck's iteration."""

from keras import ops

_TINY = 1e-12  # Also keeps the gradient of a square root finite at 0.
_GRAM_STEPS = 3  # Each squares the matrix, so three reach its eighth power.


def spectral_bound(matrix):
    """Returns an upper bound of the largest singular value, with a gradient.

    The bound is `||(W^T W)^8||_F^(1/16) = (sum_i sigma_i^32)^(1/32)`, which is at least the largest
    `sigma`, and at most `n^(1/32)` times as large for rank `n`. Unlike power iteration it needs no
    starting point and always bounds from above.
    """
    rows, columns = matrix.shape
    # The singular values are those of the transpose, which has the smaller Gram matrix.
    turned = matrix if rows >= columns else ops.transpose(matrix)
    scale = _norm(turned)
    gram = ops.matmul(ops.transpose(turned / scale), turned / scale)
    # Powers overflow float32 soon, so divide each by its norm and keep the logarithm of the norms.
    logarithm, power = 0.0, 1.0
    for _ in range(_GRAM_STEPS):
        norm = _norm(gram)
        logarithm = logarithm + ops.log(norm) / power
        gram = ops.matmul(gram / norm, gram / norm)
        power *= 2.0
    last = ops.log(_norm(gram))
    return scale * ops.exp(0.5 * (logarithm + last / power))


def orthogonalize(matrix, num_steps):
    """Returns a nearly orthogonal matrix whose singular values are at most 1.

    Bjorck's iteration starts from `W / bound`. A step `W <- 1.5 W - 0.5 W W^T W` maps each singular
    value `s` in `[0, 1]` to `1.5 s - 0.5 s^3`, which is larger but at most 1. In exact arithmetic
    the singular values are therefore at most 1 after any number of steps.
    """
    rows, columns = matrix.shape
    turned = matrix if rows >= columns else ops.transpose(matrix)
    current = turned / (spectral_bound(turned) + _TINY)
    for _ in range(num_steps):
        gram = ops.matmul(ops.transpose(current), current)
        current = 1.5 * current - 0.5 * ops.matmul(current, gram)
    return current if rows >= columns else ops.transpose(current)


def _norm(matrix):
    """Returns the Frobenius norm."""
    return ops.sqrt(ops.sum(ops.square(matrix)) + _TINY**2)
