"""What the frameworks have to say in the same words."""

_NO_GRADIENT = (
    "The model has no gradient with respect to its input, so that a gradient attack cannot run and "
    "would report a robustness that is not there. Look for a layer that casts to integers, rounds, "
    "looks up an embedding or leaves {} (`{}`); give it a gradient (BPDA), or use attacks that "
    'need none, such as Square: kr.evaluate(..., attacks="black_box"). '
    "Received: an input of shape {} and dtype {}"
)


class NoGradientError(ValueError):
    """Says that no gradient leads from the outputs of a model back to its input.

    Args:
        framework: str, its name.
        way_out: str, the function by which a model leaves it.
        shape: of the input.
        dtype: str, of the input.
    """

    def __init__(self, framework, way_out, shape, dtype):
        super().__init__(_NO_GRADIENT.format(framework, way_out, tuple(shape), dtype))

    @classmethod
    def saying(cls, text):
        """Returns one that says something else."""
        error = cls.__new__(cls)
        ValueError.__init__(error, text)
        return error
