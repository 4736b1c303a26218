"""Models that were built for batches of one size."""

import keras

from keras_robust.backend.keras_internals import layers_of

WRONG_SIZE = (
    "The model takes only batches of {} examples: it has a stateful layer, and its Input has a "
    "`batch_shape` or a `batch_size`. Attacks and evaluations also run on smaller batches. For "
    "them, build the same model with keras.Input(shape) and stateful=False, and copy the "
    "weights; for training, drop the last, short batch. Received: a batch of {} examples"
)


def check_batch_size(model, size):
    """Raises ValueError if a batch of `size` examples, an int or `None`, does not fit the model."""
    wanted = fixed_batch_size(model)
    if None not in (wanted, size) and size != wanted:
        raise ValueError(WRONG_SIZE.format(wanted, size))


def fixed_batch_size(model):
    """Returns the only batch size that the model takes, or `None` if it takes any size.

    Only layers with a state per example need a fixed size. Other models take any size, even behind
    an Input with a fixed size, which Keras on JAX creates from the first batch.
    """
    if not isinstance(model, keras.Model):
        return None
    if not any(getattr(layer, "stateful", False) for layer in layers_of(model)):
        return None
    inputs = getattr(model, "inputs", None)
    sizes = {tensor.shape[0] for tensor in keras.tree.flatten(inputs or [])} - {None}
    return sizes.pop() if len(sizes) == 1 else None
