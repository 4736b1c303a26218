"""Error messages for models that cannot be traced."""

import contextlib
import traceback

import keras

from keras_robust import backend

_FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX"}
# Raised by TensorFlow, by JAX, and for a method that symbolic tensors lack.
_ERRORS = (NotImplementedError, TypeError, AttributeError)


@contextlib.contextmanager
def tracing_error_context(model, inputs):
    """Raises a ValueError with advice if a model that is called inside cannot be traced.

    Args:
        model: callable.
        inputs: the inputs of the call, a structure of tensors.
    """
    try:
        yield
    except _ERRORS as error:
        is_symbolic = any(map(backend.is_symbolic, keras.tree.flatten(inputs)))
        if not is_symbolic or not (_is_about_numpy(error) or _calls_predict(model, error)):
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
