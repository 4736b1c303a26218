"""Replacement of attributes of layers, for as long as somebody needs the replacement."""

import contextlib
import threading

# Held while an attribute is replaced or restored. Reentrant, because in that moment the garbage
# collector may close an abandoned context in the same thread.
LOCK = threading.RLock()

_ABSENT = object()
# The replacements of an attribute, by the id of its layer and its name. Each wraps the one before.
_PATCHES = {}


@contextlib.contextmanager
def patched(layer, name, make):
    """Replaces an attribute of one layer inside the context, and yields the replacement.

    Keras has no hooks: an instance attribute that hides a method or another attribute takes their
    place. All users with the same `make` share one replacement, whether their contexts are nested
    or overlap in several threads, such as the replicas of a strategy. The last one to leave, also
    by an exception, restores what was there before: the instance attribute, or none.

    All threads see a replacement, and it may stay until the replacements that wrap it are gone. For
    code that did not ask for it, a replacement must therefore do what the attribute did.

    Args:
        layer: a `keras.Layer`.
        name: str, the name of the attribute.
        make: function from the layer, which still has the present attribute, to the replacement.
            The first user calls it.
    """
    with LOCK:
        patch = _enter(layer, name, make)
    try:
        yield patch.replacement
    finally:
        with LOCK:
            _leave(layer, name, patch)


class _Patch:
    def __init__(self, layer, name, make):
        self.make = make
        self.before = vars(layer).get(name, _ABSENT)
        self.replacement = make(layer)
        self.users = 0


def _enter(layer, name, make):
    """Returns the patch that `make` made, with one more user, and installs it if it is new."""
    patches = _PATCHES.get((id(layer), name), [])
    patch = next((one for one in patches if one.make is make), None)
    if patch is None:
        patch = _Patch(layer, name, make)
        # `setattr` would have Keras track the replacement.
        vars(layer)[name] = patch.replacement
        # The id is unique for as long as a user holds the layer.
        _PATCHES[id(layer), name] = patches
        patches.append(patch)
    patch.users += 1
    return patch


def _leave(layer, name, patch):
    """Removes a user, and from the outermost on the patches that nobody uses."""
    patch.users -= 1
    patches = _PATCHES[id(layer), name]
    while patches and not patches[-1].users:
        before = patches.pop().before
        if before is _ABSENT:
            del vars(layer)[name]
        else:
            vars(layer)[name] = before
    if not patches:
        del _PATCHES[id(layer), name]
