"""The other callbacks of the same `fit`, which Keras hands to no callback."""

import keras


def list_around(callback, frame):
    """Returns the `keras.callbacks.CallbackList` that calls a method of `callback`, or `None`.

    Args:
        callback: the callback.
        frame: the frame from which that method was called.
    """
    owner = frame.f_locals.get("self") if frame else None
    is_list = isinstance(owner, keras.callbacks.CallbackList)
    return owner if is_list and callback in owner.callbacks else None
