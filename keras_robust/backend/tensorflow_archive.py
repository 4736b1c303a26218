"""TensorFlow: writes functions of tensors into a SavedModel."""

import keras


class Archive(keras.export.ExportArchive):
    """The archive of Keras, of one model.

    Args:
        model: built `keras.Model`.
    """

    def __init__(self, model):
        super().__init__()
        self.track(model)

    def in_graph(self, function):
        """Returns `function`, of tensors of the backend, as one of TensorFlow's tensors."""
        return function


def from_graph(function):
    """Returns `function`, of TensorFlow's tensors, as one of tensors of the backend."""
    return function
