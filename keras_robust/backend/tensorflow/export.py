"""TensorFlow: SavedModels of functions of tensors."""

import keras


class ExportArchive:
    """Writes functions around a model into a SavedModel, with the archive of Keras.

    Args:
        model: built `keras.Model`.
    """

    def __init__(self, model):
        self._archive = keras.export.ExportArchive()
        self._archive.track(model)

    def in_graph(self, function):
        """Returns `function` unchanged.

        On JAX, this method converts a function of JAX tensors to a function of TensorFlow tensors.
        """
        return function

    def add_endpoint(self, name, function, specs):
        """Adds a function of TensorFlow tensors that returns a dict of tensors."""
        self._archive.add_endpoint(name, function, list(specs))

    def write_out(self, path, verbose=False):
        """Writes the SavedModel to the folder `path`."""
        self._archive.write_out(path, verbose=verbose)


def from_tf_function(function):
    """Returns `function` unchanged, since the backend is TensorFlow."""
    return function
