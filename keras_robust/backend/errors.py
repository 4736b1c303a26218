"""Errors that the backends have in common."""

_NO_GRADIENT = (
    "The model has no gradient with respect to its input. A gradient attack would find nothing, "
    "and the model would only seem robust. Look for a layer that casts to integers, rounds, "
    "looks up an embedding or leaves {} (`{}`); give it a gradient (BPDA), or use attacks that "
    'need none, such as Square: kr.evaluate(..., attacks="black_box"). Received: an input of '
    "shape {} and dtype {}"
)


class NoGradientError(ValueError):
    """Reports that the outputs of a model have no gradient with respect to its input.

    Args:
        framework: str, the name of the framework.
        way_out: str, the function of the framework by which a model leaves it.
        shape: the shape of the input.
        dtype: str, the dtype of the input.
    """

    def __init__(self, framework, way_out, shape, dtype):
        super().__init__(_NO_GRADIENT.format(framework, way_out, tuple(shape), dtype))

    @classmethod
    def saying(cls, text):
        """Returns a `NoGradientError` with another message."""
        error = cls.__new__(cls)
        ValueError.__init__(error, text)
        return error
