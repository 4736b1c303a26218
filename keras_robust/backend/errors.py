"""What the frameworks have to say in the same words."""

import contextlib

import keras

from keras_robust.backend.model_layers import layers_of

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


@contextlib.contextmanager
def advice_for_text(model):
    """Within, a `NoGradientError` of a model with embeddings says how such a model is trained."""
    try:
        yield
    except NoGradientError as error:
        names = [layer.name for layer in layers_of(model) if _embeds(layer)]
        if not names:
            raise
        others = f" (or at one of {names[1:]})" if names[1:] else ""
        raise ValueError(
            "The model looks up what it is given in an embedding: tokens and categories cannot "
            "move a little, so that no gradient leads to them. Perturb the embeddings in place of "
            f'them: kr.AdvTrain(kr.threat_models.AtLayer("{names[0]}", kr.L2(1.0, bounds=None)))'
            f"{others}; or name the inputs that can move, such as "
            '{"image": kr.Linf("8/255")}. '
            f"Received: a threat model on the inputs, and the embeddings {names}"
        ) from error


def _embeds(layer):
    return isinstance(layer, keras.layers.Embedding)
