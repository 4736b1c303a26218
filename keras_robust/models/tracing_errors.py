"""Error messages for models that cannot be traced."""

import contextlib
import traceback

import keras

from keras_robust import backend

_FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX"}
# Raised by TensorFlow, by JAX, and for a method that symbolic tensors lack.
_ERRORS = (NotImplementedError, TypeError, AttributeError)
# Raised by TensorFlow where `predict` cuts a traced batch of many inputs into its own batches.
_LOOP = "Iterator.get_next()"


@contextlib.contextmanager
def tracing_error_context(model, inputs):
    """Raises a ValueError with advice if a model that is called inside cannot be traced.

    Args:
        model: callable.
        inputs: the inputs of the call, a structure of tensors.
    """
    try:
        yield
    except (*_ERRORS, ValueError) as error:
        is_symbolic = any(map(backend.is_symbolic, keras.tree.flatten(inputs)))
        is_known = isinstance(error, _ERRORS) or _LOOP in str(error)
        is_of_arrays = is_known and (_is_about_numpy(error) or _calls_predict(model, error))
        if not is_symbolic or not is_of_arrays:
            raise
        raise ValueError(
            f"The model cannot be traced by {_FRAMEWORKS[keras.backend.backend()]}: it turns "
            "tensors into NumPy arrays, as `predict` of a Keras model does. Pass a Keras model "
            "itself, or call it, `model(x)`; pass another function of arrays as "
            "kr.evaluation.BlackBox(function, num_classes=...), in `evaluate` with "
            f'attacks="black_box". Received: {str(error).splitlines()[0]}'
        ) from error


def _is_about_numpy(error):
    return "numpy" in str(error).lower()


def _calls_predict(model, error):
    """Returns whether the model is a `predict`, or a function that calls one.

    The names are read from the code, because Keras hides its own frames.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = {name for frame in frames for name in frame.f_code.co_names}
    return "predict" in names or getattr(model, "__name__", None) == "predict"
