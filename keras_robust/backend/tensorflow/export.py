"""TensorFlow: writes functions of tensors into a SavedModel."""

import keras


class ExportArchive:
    """Functions of TensorFlow's tensors around a model, written by Keras.

    Args:
        model: built `keras.Model`.
    """

    def __init__(self, model):
        self._archive = keras.export.ExportArchive()
        self._archive.track(model)

    def in_graph(self, function):
        """Returns `function`, of tensors of the backend, as one of TensorFlow's tensors."""
        return function

    def add_endpoint(self, name, function, specs):
        """Adds a function of TensorFlow's tensors that returns a dict of them."""
        self._archive.add_endpoint(name, function, list(specs))

    def write_out(self, path, verbose=False):
        """Writes the SavedModel to the folder `path`."""
        self._archive.write_out(path, verbose=verbose)


def from_tf_function(function):
    """Returns `function`, of TensorFlow's tensors, as one of tensors of the backend."""
    return function
