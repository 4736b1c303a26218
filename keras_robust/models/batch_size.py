"""Models that were built for batches of one size."""

import keras

from keras_robust.backend.keras_internals import layers_of

WRONG_SIZE = (
    "The model takes batches of {} examples only, as a stateful layer does: its Input has a "
    "`batch_shape` or a `batch_size`. Attacks and evaluations also run on the examples that are "
    "left. For them make the same model of keras.Input(shape) and stateful=False, and give it the "
    "weights of this one; to train, leave out the last, short batch. "
    "Received: a batch of {} examples"
)


def check_batch_size(model, size):
    """Says so if a batch of `size` examples, an int or `None`, does not fit the model."""
    wanted = fixed_batch_size(model)
    if None not in (wanted, size) and size != wanted:
        raise ValueError(WRONG_SIZE.format(wanted, size))


def fixed_batch_size(model):
    """Returns the one size of batches that the model takes, or `None`.

    Only layers with a state for each example need one. Others take any size, also behind an Input
    of one size, which Keras on JAX makes of the first batch.
    """
    if not isinstance(model, keras.Model):
        return None
    if not any(getattr(layer, "stateful", False) for layer in layers_of(model)):
        return None
    inputs = getattr(model, "inputs", None)
    sizes = {tensor.shape[0] for tensor in keras.tree.flatten(inputs or [])} - {None}
    return sizes.pop() if len(sizes) == 1 else None
