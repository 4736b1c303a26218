"""Matrices that stretch nothing: scaled below 1, then made orthogonal."""

from keras import ops

_TINY = 1e-12  # Also keeps the gradient of a square root finite at 0.
_GRAM_STEPS = 3


def spectral_bound(matrix):
    """Returns an upper bound of the largest singular value, with a gradient.

    `||(W^T W)^8||_F^(1/16) = (sum_i sigma_i^32)^(1/32)`, which is at least the largest `sigma`, and
    at most `n^(1/32)` times that for rank `n`: no iteration whose start or end matters.
    """
    rows, columns = matrix.shape
    turned = matrix if rows >= columns else ops.transpose(matrix)
    scale = _norm(turned)
    gram = ops.matmul(ops.transpose(turned / scale), turned / scale)
    # Norms of powers leave float32 soon: each is divided by its norm, which is put back at the end.
    logarithm, power = 0.0, 1.0
    for _ in range(_GRAM_STEPS):
        norm = _norm(gram)
        logarithm = logarithm + ops.log(norm) / power
        gram = ops.matmul(gram / norm, gram / norm)
        power *= 2.0
    last = ops.log(_norm(gram))
    return scale * ops.exp(0.5 * (logarithm + last / power))


def orthogonalise(matrix, num_steps):
    """Returns a matrix with singular values of at most 1, nearly all 1, by Bjorck's iteration.

    From `W / bound`, `W <- 1.5 W - 0.5 W W^T W` takes each singular value `s` in `[0, 1]` to
    `1.5 s - 0.5 s^3`, which is larger, and at most 1: in exact arithmetic no step ends above 1,
    however few there are.
    """
    rows, columns = matrix.shape
    turned = matrix if rows >= columns else ops.transpose(matrix)
    current = turned / (spectral_bound(turned) + _TINY)
    for _ in range(num_steps):
        gram = ops.matmul(ops.transpose(current), current)
        current = 1.5 * current - 0.5 * ops.matmul(current, gram)
    return current if rows >= columns else ops.transpose(current)


def _norm(matrix):
    """The Frobenius norm."""
    return ops.sqrt(ops.sum(ops.square(matrix)) + _TINY**2)
