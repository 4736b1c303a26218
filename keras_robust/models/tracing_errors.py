"""Models that leave the framework while they are traced."""

import contextlib
import traceback

import keras

from keras_robust import backend

_FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX"}
# Of TensorFlow, of JAX, and where a symbolic tensor lacks a method.
_ERRORS = (NotImplementedError, TypeError, AttributeError)


@contextlib.contextmanager
def tracing_error_context(model, inputs):
    """Says of a model that is called within what to write, if it cannot be traced.

    Args:
        model: callable.
        inputs: what it is called with, a structure of tensors.
    """
    try:
        yield
    except _ERRORS as error:
        is_symbolic = any(map(backend.is_symbolic, keras.tree.flatten(inputs)))
        if not is_symbolic or not (_is_about_numpy(error) or _calls_predict(model, error)):
            raise
        raise ValueError(
            f"The model cannot be traced by {_FRAMEWORKS[keras.backend.backend()]}: it turns "
            "tensors into NumPy arrays, as `predict` of a Keras model does. Of a Keras model give "
            "the model itself, or call it, `model(x)`; give another function of arrays as "
            "kr.evaluation.BlackBox(function, num_classes=...), in `evaluate` with "
            f'attacks="black_box". Received: {str(error).splitlines()[0]}'
        ) from error


def _is_about_numpy(error):
    return "numpy" in str(error).lower()


def _calls_predict(model, error):
    """Whether the model is a `predict`, or a function that calls one; Keras hides its frames."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = {name for frame in frames for name in frame.f_code.co_names}
    return "predict" in names or getattr(model, "__name__", None) == "predict"
