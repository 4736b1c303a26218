"""The functions that write a SavedModel, of the backend that runs."""

from keras_robust import backend

if backend.IS_JAX:
    from keras_robust.backend.jax.export import ExportArchive
    from keras_robust.backend.jax.export import from_tf_function
else:
    from keras_robust.backend.tensorflow.export import ExportArchive
    from keras_robust.backend.tensorflow.export import from_tf_function

__all__ = ["ExportArchive", "from_tf_function"]
