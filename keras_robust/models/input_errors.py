"""What to do about inputs that have no gradient."""

import contextlib

import keras

from keras_robust.backend import NoGradientError
from keras_robust.backend import layers_of


@contextlib.contextmanager
def input_error_context(model):
    """Within, a `NoGradientError` says what to do about inputs that cannot move a little.

    Those are tokens and other whole numbers. Where a model has inputs of both kinds, nobody knows
    here which are attacked, and the error stays as it is.
    """
    try:
        yield
    except NoGradientError as error:
        inputs = {tensor.name: tensor.dtype for tensor in _inputs_of(model)}
        are_integers = _are_integers(inputs)
        embeddings = [layer.name for layer in layers_of(model) if _embeds(layer)]
        if embeddings and (are_integers or len(inputs) < 2):
            raise NoGradientError.saying(_about_embeddings(embeddings)) from error
        if are_integers:
            raise NoGradientError.saying(_about_integers(inputs)) from error
        raise


def refuse_integers(model):
    """Raises `ValueError` for a model that takes whole numbers only.

    For attacks without gradients: Keras casts what they find to integers, so that the model would
    be judged on another point than the one that is feasible.
    """
    inputs = {tensor.name: tensor.dtype for tensor in _inputs_of(model)}
    if _are_integers(inputs):
        raise ValueError(_about_integers(inputs))


def _are_integers(inputs):
    return bool(inputs) and all("int" in dtype for dtype in inputs.values())


def _about_embeddings(names):
    others = f" (or at one of {names[1:]})" if names[1:] else ""
    return (
        "The model looks up what it is given in an embedding: tokens and categories cannot move a "
        "little, so that no gradient leads to them. Perturb the embeddings in place of them: "
        f'kr.AdvTrain(kr.threat_models.AtLayer("{names[0]}", kr.L2(1.0, bounds=None)))'
        f"{others}. Received: a threat model on the inputs, and the embeddings {names}"
    )


def _about_integers(inputs):
    shown = ", ".join(f"{name!r}: {dtype}" for name, dtype in inputs.items())
    return (
        "The model takes whole numbers: Keras casts every input to integers, so that it has no "
        "gradient there, and no input that an attack finds reaches it as it is. "
        'For images make it with keras.Input(..., dtype="float32"); weights can be '
        f"copied by get_weights and set_weights. Received: a model with inputs of dtype {shown}"
    )


def _inputs_of(model):
    try:
        return keras.tree.flatten(model.inputs) if isinstance(model, keras.Model) else []
    except (AttributeError, ValueError):
        return []


def _embeds(layer):
    return isinstance(layer, keras.layers.Embedding)
