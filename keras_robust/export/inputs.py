"""The inputs of a model: their names and shapes for a server, and their structure for Keras."""

import contextlib
import re

import keras
import numpy as np
import tensorflow as tf

from keras_robust.layers import RandomizedSmoothing

# TensorFlow functions use `self`, and the signature `certify` uses the others.
_TAKEN = ("self", "seed", "num_samples", "alpha")


class Inputs:
    """The inputs of a built model as a flat list, which is how a server sends them.

    Args:
        model: built Sequential or Functional `keras.Model`, or a `RandomizedSmoothing` of one.

    Attributes: `specs`, a list of `tf.TensorSpec` with a dynamic batch dimension and the names of
    the inputs, where `_` replaces characters that TensorFlow refuses and `x_` precedes reserved
    names; `keys`, the keys in the dict or list on which the model was built, or `[None]` if the
    model takes one tensor.

    Raises:
        ValueError: for a model that is not built or has no symbolic inputs, and for two inputs
            whose names are equal after these replacements.
    """

    def __init__(self, model):
        within = model.model if isinstance(model, RandomizedSmoothing) else model
        tensors = _symbolic_inputs(model, within)
        # The input of a Sequential model has one name in `inputs` and another in `input`.
        is_sequential = isinstance(within, keras.Sequential)
        self._structure = tensors[0] if is_sequential else within.input
        self.keys = _keys(self._structure)
        self.specs = [_spec(tensor) for tensor in tensors]
        names = [spec.name for spec in self.specs]
        if len(set(names)) < len(names):
            raise ValueError(f"Every input needs a different name. Received: names {names}")

    def pack(self, tensors):
        """Returns the structure that the model takes, made of a list of tensors."""
        return keras.tree.pack_sequence_as(self._structure, list(tensors))

    def unpack(self, x):
        """Returns a list of arrays, made of examples in the structure that the model takes.

        Args:
            x: array, or for several inputs a dict or list of arrays.

        Raises:
            ValueError: for another number of arrays, or for other shapes.
        """
        if isinstance(self._structure, dict) and isinstance(x, dict):
            x = {key: x[key] for key in self._structure if key in x}
        leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(x)]
        self._check_shapes([(None, *leaf.shape[1:]) for leaf in leaves])
        return [
            leaf.astype(spec.dtype.as_numpy_dtype)
            for leaf, spec in zip(leaves, self.specs, strict=True)
        ]

    def _check_shapes(self, shapes):
        fit = len(shapes) == len(self.specs) and all(
            spec.shape.is_compatible_with(shape)
            for spec, shape in zip(self.specs, shapes, strict=True)
        )
        if not fit:
            expected = {spec.name: tuple(spec.shape) for spec in self.specs}
            raise ValueError(f"Expected examples of shapes {expected}. Received: {shapes}")

    @contextlib.contextmanager
    def missing_data_context(self, data):
        """Asks for `data` if a model fails on random examples of text or of unknown length."""
        try:
            yield
        except Exception as error:
            lengths_vary = any(
                spec.dtype == tf.string or None in spec.shape[1:] for spec in self.specs
            )
            if data is not None or not lengths_vary:
                raise
            shapes = {spec.name: (*spec.shape, spec.dtype.name) for spec in self.specs}
            raise ValueError(
                "The model takes text, or inputs of any length, and fails on random examples: "
                "pass a few real examples as `data=(x, y)`. Received: inputs "
                f"{shapes} and the error {str(error).strip().splitlines()[0][:200]}"
            ) from error

    def random_examples(self, count, boxes):
        """Returns a list of random arrays, each within its bounds, or in [0, 1] for `None`.

        Args:
            count: int, the number of examples.
            boxes: list of `(low, high)` or `None`, one for each input.
        """
        # A fixed seed, so that exports of the same model write the same requests.
        rng, arrays = np.random.default_rng(0), []
        for spec, box in zip(self.specs, boxes, strict=True):
            low, high = (0.0, 1.0) if box is None else map(np.asarray, box)
            size = (count, *(length or 1 for length in spec.shape[1:]))
            # Random bytes may not be valid text; the empty string always is.
            if spec.dtype == tf.string:
                arrays.append(np.full(size, b"", object))
                continue
            # Rounding must not leave the bounds, so stay away from them.
            share = rng.uniform(0.01, 0.99, size=size)
            values = low * (1.0 - share) + high * share
            arrays.append(values.astype(spec.dtype.as_numpy_dtype))
        return arrays


def _symbolic_inputs(model, within):
    """Returns a list of the symbolic inputs of `within`.

    Args:
        model: the model that the user passed, for the errors.
        within: the same, or the model that its `RandomizedSmoothing` holds.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Expected a built keras.Model: call it on a batch, or give it an Input. "
            f"Received: {model!r}"
        )
    leaves = keras.tree.flatten(getattr(within, "inputs", None))
    tensors = [leaf for leaf in leaves if leaf is not None]
    if not tensors:
        raise ValueError(
            "Expected a Sequential or Functional model. Wrap a subclassed model: "
            "`keras.Model(inputs, model(inputs))`. "
            f"Received: {type(model).__name__} with {len(tensors)} inputs"
        )
    return tensors


def _keys(structure):
    if not keras.tree.is_nested(structure):
        return [None]
    return sorted(structure) if isinstance(structure, dict) else list(range(len(structure)))


def _spec(tensor):
    # TensorFlow accepts no other characters in the argument names of a signature.
    name = re.sub(r"[^A-Za-z0-9_]", "_", tensor.name)
    # A Python argument cannot begin with a digit, nor an operation of TensorFlow with `_`.
    if not name[:1].isalpha() or name in _TAKEN:
        name = f"x_{name}"
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=name)
