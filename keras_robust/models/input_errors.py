"""Error messages for inputs without a gradient."""

import contextlib

import keras

from keras_robust.backend import NoGradientError
from keras_robust.backend import layers_of


@contextlib.contextmanager
def input_error_context(model):
    """Explains a `NoGradientError` for inputs that are whole numbers, such as tokens.

    If a model has inputs of both kinds, it is not known here which are attacked, and the error
    stays unchanged.
    """
    try:
        yield
    except NoGradientError as error:
        inputs = _input_dtypes(model)
        are_integers = _are_integers(inputs)
        embeddings = [layer.name for layer in layers_of(model) if _embeds(layer)]
        if embeddings and (are_integers or len(inputs) < 2):
            raise NoGradientError.saying(_about_embeddings(embeddings)) from error
        if are_integers:
            raise NoGradientError.saying(_about_integers(inputs)) from error
        raise


def refuse_integers(model):
    """Raises ValueError for a model whose inputs are all whole numbers.

    Attacks without gradients need this: Keras casts adversarial examples to integers, so that the
    model would be judged on a point that may not be feasible.
    """
    inputs = _input_dtypes(model)
    if _are_integers(inputs):
        raise ValueError(_about_integers(inputs))


def _are_integers(inputs):
    return bool(inputs) and all("int" in dtype for dtype in inputs.values())


def _about_embeddings(names):
    others = f" (or at one of {names[1:]})" if names[1:] else ""
    return (
        "The model looks up its inputs in an embedding. Tokens and categories cannot change by a "
        "small amount, and have no gradient. Perturb the embeddings instead: "
        f'kr.AdvTrain(kr.threat_models.AtLayer("{names[0]}", kr.L2(1.0, bounds=None))){others}. '
        f"Received: a threat model on the inputs, and the embeddings {names}"
    )


def _about_integers(inputs):
    shown = ", ".join(f"{name!r}: {dtype}" for name, dtype in inputs.items())
    return (
        "The model takes whole numbers: Keras casts every input to integers, so that inputs have "
        "no gradient, and adversarial examples are rounded. For images, build the model with "
        'keras.Input(..., dtype="float32"); copy the weights with get_weights and set_weights. '
        f"Received: a model with inputs of dtype {shown}"
    )


def _input_dtypes(model):
    """Returns the dtypes of the inputs of a Keras model by name; none where they are not known."""
    try:
        inputs = keras.tree.flatten(model.inputs) if isinstance(model, keras.Model) else []
    # A subclassed model may have no `inputs`, or none before its first call.
    except (AttributeError, ValueError):
        return {}
    return {tensor.name: tensor.dtype for tensor in inputs}


def _embeds(layer):
    return isinstance(layer, keras.layers.Embedding)
