"""The other callbacks of the same `fit`, which Keras hands to no callback."""

import keras


def list_around(callback, frame):
    """Returns the `keras.callbacks.CallbackList` that calls a method of `callback`, or `None`.

    Args:
        callback: the callback.
        frame: the frame from which that method was called.
    """
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            return owner
        # A subclass may have a method of its own in between.
        frame = frame.f_back if owner is callback else None
    return None
