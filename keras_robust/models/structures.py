"""Structures of tensors or arrays with one row per example, such as the inputs of a model."""

import keras
import numpy as np
from keras import ops


def single(structure):
    """Returns the only tensor in a structure such as `{"label": y}`, or else the structure."""
    leaves = keras.tree.flatten(structure)
    return leaves[0] if len(leaves) == 1 else structure


def only_input(inputs):
    """Returns the only tensor or array in the inputs of a model."""
    leaves = keras.tree.flatten(inputs)
    if len(leaves) != 1:
        names = list(inputs) if isinstance(inputs, dict) else f"{len(leaves)} tensors"
        raise ValueError(
            "The model has several inputs. Choose the inputs that the attacker may change, and "
            'by how much, with a dict such as threat_model={"image": kr.Linf("8/255")}, or by '
            f'position for inputs in a list, {{0: kr.Linf("8/255")}}. Received: inputs {names}'
        )
    refuse_sparse(leaves[0])
    return leaves[0]


def is_sparse(leaf):
    """Returns whether a tensor, a symbolic tensor or a tensor specification is sparse."""
    # Compare names, so that neither framework is imported. BCOO is the sparse array of JAX.
    kind = type(leaf).__name__
    return bool(getattr(leaf, "sparse", False)) or "Sparse" in kind or kind == "BCOO"


def refuse_sparse(leaf, name=None):
    """Raises ValueError for a sparse tensor that is to be attacked."""
    if is_sparse(leaf):
        label = "the input" if name is None else f"the input {name!r}"
        raise ValueError(
            "An attack changes every entry of an input, which a sparse tensor cannot store. Make "
            "the input dense, in the data (`tf.sparse.to_dense`) and in the model "
            "(keras.Input(..., sparse=False)), or attack only dense inputs, for example with "
            f'threat_model={{"image": Linf("8/255")}}. Received: a sparse tensor for {label}'
        )


def size_of(x):
    """Returns the number of examples in an array or a structure of arrays."""
    return len(keras.tree.flatten(x)[0])


def take(x, rows):
    """Returns the given rows of an array, or of every array in a structure."""
    return keras.tree.map_structure(lambda leaf: leaf[rows], x)


def filled_rows(count, batch_size):
    """Returns the rows `0` to `count - 1`, and the last of them again until all batches are full.

    In batches of one size the result of a row does not depend on the rows beside it, to the bit.
    """
    return np.minimum(np.arange(-(-count // batch_size) * batch_size), count - 1)


def batches_of(x, batch_size):
    """Yields batches of tensors, in order, from an array or a structure of arrays."""
    for start in range(0, size_of(x), batch_size):
        rows = take(x, slice(start, start + batch_size))
        yield keras.tree.map_structure(ops.convert_to_tensor, rows)
