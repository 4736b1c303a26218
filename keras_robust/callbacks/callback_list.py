"""The list of callbacks of a `fit`, which Keras passes to no callback."""

from keras_robust.backend.keras_internals import callback_list_around


def move_callback(callback, frame, place):
    """Moves a callback within the list of its `fit`, while Keras calls its `set_model`.

    Args:
        callback: the callback.
        frame: the frame that called `set_model`.
        place: function that maps the list of the other callbacks to the index to move to.

    Returns:
        A function that returns the callbacks of this `fit` in their present order, or `[]` if the
        callback is in no list.
    """
    owner = callback_list_around(callback, frame)
    if owner is None:
        return list
    others = [one for one in owner.callbacks if one is not callback]
    index = place(others)
    # Make a new list: Keras iterates over the old one, and must reach every callback once.
    owner.callbacks = [*others[:index], callback, *others[index:]]
    return lambda: owner.callbacks


def put_last(last, callback, frame):
    """Adds a callback at the end of the list, while Keras calls `set_model` of `callback`.

    Args:
        last: the callback to add, whose `owner` is `callback`; it replaces an earlier one.
        callback: the callback.
        frame: the frame that called `set_model`.
    """
    owner = callback_list_around(callback, frame)
    if owner is not None:
        others = [one for one in owner.callbacks if getattr(one, "owner", None) is not callback]
        owner.callbacks = [*others, last]
