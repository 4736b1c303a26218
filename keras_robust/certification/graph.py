"""The layers of a model, one after the other, on something else than tensors."""

import keras

from keras_robust.backend.keras_internals import graph_of
from keras_robust.backend.keras_internals import is_defined_by_keras
from keras_robust.backend.keras_internals import run_graph


def propagate(model, value, rule):
    """Returns what comes out of a model whose layers are replaced by a rule.

    Args:
        model: built Sequential or Functional `keras.Model` with one input and one output; models
            within it are taken apart likewise.
        value: what goes in: any object that is no structure of tensors.
        rule: function `(layer, *values) -> value`, with a list of values for layers that merge.

    Raises:
        ValueError: for other models, among them those with a `call` of their own, and for a layer
            that was called in training mode.
    """
    graph = _graph_of(model)

    def replace(layer):
        def run(*args, **kwargs):
            given = {name: value for name, value in kwargs.items() if value is not None}
            if given.pop("training", None) or given:
                raise ValueError(
                    "A certificate is about inference without masks, and this layer is always "
                    "called with an argument that says otherwise. "
                    f"Received: layer {layer.name!r} called with {sorted(kwargs)}"
                )
            if isinstance(layer, keras.Model):
                return propagate(layer, *args, rule)
            return rule(layer, *args)

        return run

    outputs = run_graph(graph, value, replace)
    (output,) = keras.tree.flatten(outputs)
    return output


def refuse(layer, what, known):
    """Raises a `ValueError` that names a layer for which nothing is known."""
    names = ", ".join(sorted(known))
    raise ValueError(
        f"No {what} is known for this layer. Received: layer {getattr(layer, 'name', None)!r} of "
        f"class {type(layer).__name__}. Known are, called as layers: {names}"
    )


def refuse_activation(layer, function, what, known):
    """Raises a `ValueError` that names an activation for which nothing is known."""
    names = ", ".join(sorted(known))
    raise ValueError(
        f"No {what} is known for this activation. Known are {names}. Received: "
        f"{getattr(function, '__name__', function)} in layer {layer.name!r}"
    )


def _graph_of(model):
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            "Only a built Sequential or Functional model, with one input and one output, can be "
            "taken apart into layers: start it with keras.Input(shape). "
            f"Received: a {type(model).__name__}"
        )
    _check_call(model)
    return graph


def _check_call(model):
    """Raises a `ValueError` for a model that does more than to run its graph."""
    for name in ("call", "__call__"):
        owner = next(cls for cls in type(model).__mro__ if name in vars(cls))
        if name in vars(model) or not is_defined_by_keras(owner):
            raise ValueError(
                f"A model with a `{name}` of its own may do more than its layers do, and cannot "
                "be taken apart: write it as a Functional model (a `train_step` of its own is "
                f"fine). Received: a {type(model).__name__} named {model.name!r}"
            )
