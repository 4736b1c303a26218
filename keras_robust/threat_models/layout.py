"""The layout of several inputs in the one matrix that an attack perturbs."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import models


class Layout:
    """Flattens and concatenates some inputs of a model: `(batch_size, total)`.

    Args:
        inputs: the inputs of a model, tensors or arrays: a dict, or a list or tuple.
        names: the keys, or the positions, of the attacked inputs.

    Raises:
        ValueError: if the inputs are not a dict, list or tuple, if one of `names` is missing, or if
            an attacked input has no fixed shape.

    Example:

    >>> import numpy as np
    >>> from keras_robust.threat_models.layout import Layout
    >>> inputs = {"age": np.array([[7.0]]), "city": np.array([3]), "xy": np.array([[1.0, 2.0]])}
    >>> layout = Layout(inputs, ["age", "xy"])
    >>> print(np.asarray(layout.join(inputs)))
    [[7. 1. 2.]]
    """

    def __init__(self, inputs, names):
        self.names = list(names)
        self.shapes = [_shape_of(inputs, name) for name in self.names]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def join(self, inputs):
        """Returns the attacked inputs as a float32 tensor `(batch_size, total)`."""
        parts = [
            ops.reshape(ops.cast(inputs[name], "float32"), (-1, size))
            for name, size in zip(self.names, self.sizes, strict=True)
        ]
        return ops.concatenate(parts, axis=-1)

    def split(self, x):
        """Returns the list of attacked inputs held in `x`, each in its own shape."""
        ends = np.cumsum(self.sizes).tolist()
        starts = [0, *ends[:-1]]
        return [
            ops.reshape(x[:, start:end], (-1, *shape))
            for start, end, shape in zip(starts, ends, self.shapes, strict=True)
        ]

    def replace(self, inputs, x):
        """Returns the inputs with the attacked ones replaced by their values in `x`.

        The replaced inputs are NumPy arrays if `x` is one. All other inputs are unchanged.
        """
        parts = self.split(x)
        if isinstance(x, np.ndarray):
            parts = [ops.convert_to_numpy(part) for part in parts]
        changed = dict(zip(self.names, parts, strict=True))
        if isinstance(inputs, dict):
            return {name: changed.get(name, leaf) for name, leaf in inputs.items()}
        return type(inputs)([changed.get(place, leaf) for place, leaf in enumerate(inputs)])

    def join_bounds(self, bounds):
        """Returns the box of the matrix from the boxes of the inputs, `None` if all are `None`."""
        if all(pair is None for pair in bounds):
            return None
        low, high = [], []
        # Without bounds, an input may take any value, which an infinite box expresses.
        for pair, shape in zip(bounds, self.shapes, strict=True):
            for side, bound in zip((low, high), pair or (-np.inf, np.inf), strict=True):
                side.append(np.broadcast_to(bound, (1, *shape)).reshape(-1))
        return tuple(np.concatenate(side).astype("float32") for side in (low, high))

    def classifier(self, model, inputs):
        """Returns the model as a `models.Classifier` that takes the matrix of attacked inputs."""
        return models.Classifier(model, lambda x: self.replace(inputs, x))


def map_named(function, inputs, threat_models):
    """Returns the inputs, each replaced by `function(leaf, name, threat_model or None)`."""
    changed = [function(inputs[name], name, threat_models.get(name)) for name in names_of(inputs)]
    if isinstance(inputs, dict):
        return dict(zip(inputs, changed, strict=True))
    return type(inputs)(changed)


def names_of(inputs):
    """Returns the keys of a dict of inputs, or the positions in a list or tuple of them."""
    if isinstance(inputs, dict):
        return list(inputs)
    if isinstance(inputs, (list, tuple)):
        return list(range(len(inputs)))
    raise ValueError(
        "A threat model for several inputs needs inputs as a dict, or as a list or tuple. For a "
        "model with one input, pass its threat model alone. "
        f"Received: inputs of type {type(inputs).__name__}"
    )


def _shape_of(inputs, name):
    """Returns the shape of one example of an input."""
    known = names_of(inputs)
    if name not in known:
        raise ValueError(
            f"The threat model names the input {name!r}, but there is no such input. Name inputs "
            "in a dict by their keys, and inputs in a list by their positions, such as "
            f'{{{known[0]!r}: kr.Linf("8/255")}}. Received: inputs {known}'
        )
    leaf = inputs[name]
    if keras.tree.is_nested(leaf):
        raise ValueError(
            "Expected one tensor under every name. "
            f"Received: under {name!r} an object of type {type(leaf).__name__}"
        )
    models.refuse_sparse(leaf, name)
    shape = tuple(leaf.shape[1:])
    if None in shape:
        raise ValueError(
            "An input that is perturbed together with others needs a fixed shape: pad or crop it. "
            f"Received: input {name!r} with examples of shape {shape}"
        )
    return shape
