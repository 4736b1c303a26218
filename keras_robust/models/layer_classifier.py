"""Models as functions of the output of one of their layers."""

import contextlib
import threading

import keras
from keras import ops

from keras_robust import backend
from keras_robust.backend.keras_internals import get_keras_mask
from keras_robust.backend.keras_internals import set_keras_mask
from keras_robust.backend.patched import patched
from keras_robust.models.classifier import Classifier


class LayerClassifier(Classifier):
    """A Keras model as a function of the output of one of its layers.

    Call it with `x` in the shape of that output. The model runs on its inputs, and the output `h`
    of the layer is replaced by `h + (x - origin)`: gradients reach the layers before it, and for `x
    = origin` the model computes what it computes without the replacement.

    Args:
        model: a `keras.Model`.
        layer: str, the name of a layer.
        inputs: the inputs of the model, a tensor or a structure of tensors. For `keras.KerasTensor`
            inputs, `origin` is a `keras.KerasTensor` too, and the classifier cannot be called.

    Attributes: `origin`, float32, the output of the layer in inference mode; `mask`, the Keras mask
    of that output, or `None`.
    """

    def __init__(self, model, layer, inputs):
        super().__init__(model, pack=lambda x: inputs)
        self._layer = _find(model, layer)
        if not model.built:
            # Build the model first: Keras may run the layer while it builds the model.
            model(inputs)
        if any(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(inputs)):
            self.origin = backend.trace_output(
                lambda x: LayerClassifier(model, layer, x).origin, inputs
            )
            self.mask = None
            return
        outputs = []

        def read(output):
            outputs.append(output)
            return output

        with changed_output(self._layer, read):
            super().__call__(None)
        output = _only_output(outputs, layer)
        self.origin = ops.cast(output, "float32")
        self.mask = get_keras_mask(output)

    def __call__(self, x, training=False):
        def move(output):
            # If `x` is `origin` itself, the gradients of both would cancel without `stop_gradient`.
            delta = x - ops.stop_gradient(self.origin)
            moved = output + ops.cast(delta, output.dtype)
            mask = get_keras_mask(output)
            # The mask is lost by the addition; later layers need it.
            if mask is not None:
                set_keras_mask(moved, mask)
            return moved

        with changed_output(self._layer, move):
            return super().__call__(x, training=training)


@contextlib.contextmanager
def changed_output(layer, change):
    """Passes the output of `layer` through `change`, inside the context and this thread.

    Every call of a layer ends in `layer.call`, before masks and activity regularizers. The change
    of an inner context gets the output of the change of an outer one.
    """
    with patched(layer, "call", _changed_call) as call:
        before = call.changes
        call.changes = (*before, change)
        try:
            yield
        finally:
            call.changes = before


class _ChangedCall(threading.local):
    """Replaces `layer.call`; every thread has its own changes.

    The replicas of a strategy trace in several threads, which may switch in the middle of a model.
    """

    # Python calls this again, with the same `call`, in every other thread.
    def __init__(self, call):
        self.call = call
        self.changes = ()

    def __call__(self, *args, **kwargs):
        output = self.call(*args, **kwargs)
        for change in self.changes:
            output = change(output)
        return output


def _changed_call(layer):
    return _ChangedCall(layer.call)


def _find(model, name):
    """Returns the layer with a name, and raises ValueError unless there is exactly one."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            "A perturbation at a layer needs a keras.Model with that layer. Received: an object "
            f"of type {type(model).__name__}"
        )
    layers = [layer for layer in backend.layers_of(model) if layer is not model]
    found = [layer for layer in layers if layer.name == name]
    if len(found) == 1:
        return found[0]
    names = sorted({one.name for one in layers if not isinstance(one, keras.layers.InputLayer)})
    raise ValueError(
        f"Expected the name of one layer of the model, one of {names}. Received: layer={name!r}, "
        f"which {len(found)} layers have"
    )


def _only_output(outputs, name):
    """Returns the output of the layer; it must run once and return one float tensor."""
    if len(outputs) != 1:
        raise ValueError(
            "A layer whose output is perturbed must run once per pass. Name a later layer, or "
            f"use a separate layer for every call. Received: layer={name!r}, which runs "
            f"{len(outputs)} times"
        )
    output = outputs[0]
    if keras.tree.is_nested(output) or "float" not in str(getattr(output, "dtype", None)):
        raise ValueError(
            "A layer whose output is perturbed must return one float tensor. Name a later layer. "
            f"Received: layer={name!r}, which returns {output}"
        )
    return output
