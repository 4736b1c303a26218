"""The other callbacks of the same `fit`, which Keras hands to no callback."""

from keras_robust.backend.keras_internals import callback_list_around


def move(callback, frame, place):
    """Moves a callback within the list of its `fit`, while Keras calls its `set_model`.

    Args:
        callback: the callback.
        frame: the frame from which `set_model` was called.
        place: function of the other callbacks, a list, that returns the index to move to.

    Returns:
        A function that returns the callbacks of this `fit` in the order in which they then stand,
        none if there is no list around.
    """
    owner = callback_list_around(callback, frame)
    if owner is None:
        return list
    others = [one for one in owner.callbacks if one is not callback]
    index = place(others)
    # A new list: Keras is walking over the old one, each of which has its turn.
    owner.callbacks = [*others[:index], callback, *others[index:]]
    return lambda: owner.callbacks


def put_last(last, callback, frame):
    """Puts one more callback behind all others, while Keras calls `set_model` of `callback`.

    Args:
        last: the callback to add, whose `owner` is `callback`, of which there is one at most.
        callback: the callback.
        frame: the frame from which `set_model` was called.
    """
    owner = callback_list_around(callback, frame)
    if owner is not None:
        others = [one for one in owner.callbacks if getattr(one, "owner", None) is not callback]
        owner.callbacks = [*others, last]
