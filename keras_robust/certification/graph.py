"""Propagation of values other than tensors through the layers of a model."""

import keras

from keras_robust.backend.keras_internals import graph_of
from keras_robust.backend.keras_internals import is_defined_by_keras
from keras_robust.backend.keras_internals import run_graph


def propagate(model, value, rule):
    """Returns the output of a model in which a rule replaces every layer.

    Args:
        model: built Sequential or Functional `keras.Model` with one input and one output. The rule
            also replaces the layers of inner models.
        value: the input, any object that is not a structure of tensors.
        rule: function `(layer, *values) -> value`, which gets a list of values for merge layers.

    Raises:
        ValueError: for other models, such as models with a custom `call`, and for a layer that is
            always called in training mode or with a mask.
    """
    graph = _graph_of(model)

    def replace(layer):
        def run(*args, **kwargs):
            # Arguments that are None, and training=False, do not change inference.
            given = {name: value for name, value in kwargs.items() if value is not None}
            if given.pop("training", None) or given:
                raise ValueError(
                    "A certificate needs inference without masks, and the model always calls this "
                    "layer with other arguments. Build the model without them. "
                    f"Received: layer {layer.name!r} called with {sorted(kwargs)}"
                )
            if isinstance(layer, keras.Model):
                return propagate(layer, *args, rule)
            return rule(layer, *args)

        return run

    outputs = run_graph(graph, value, replace)
    # A model with one output may still return it in a list or dict.
    (output,) = keras.tree.flatten(outputs)
    return output


def refuse(layer, what, known):
    """Raises a `ValueError` that names a layer without a rule."""
    names = ", ".join(sorted(known))
    raise ValueError(
        f"No {what} is known for this layer. Supported are the layers (not the functions of "
        f"keras.ops) {names}. Received: layer {getattr(layer, 'name', None)!r} of class "
        f"{type(layer).__name__}"
    )


def refuse_activation(layer, function, what, known):
    """Raises a `ValueError` that names an activation without a rule."""
    names = ", ".join(sorted(known))
    raise ValueError(
        f"No {what} is known for this activation. Supported are {names}. Received: "
        f"{getattr(function, '__name__', function)} in layer {layer.name!r}"
    )


def _graph_of(model):
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            "Expected a built Sequential or Functional model with one input and one output, whose "
            "layers are known: start it with keras.Input(shape). "
            f"Received: a {type(model).__name__}"
        )
    _check_call(model)
    return graph


def _check_call(model):
    """Raises a `ValueError` for a model whose call may do more than run its graph."""
    for name in ("call", "__call__"):
        owner = next(cls for cls in type(model).__mro__ if name in vars(cls))
        if name in vars(model) or not is_defined_by_keras(owner):
            raise ValueError(
                f"A model with a custom `{name}` may do more than run its layers: write it as a "
                "Functional model (a custom `train_step` is allowed). "
                f"Received: a {type(model).__name__} named {model.name!r}"
            )
