"""A model as a function of what one of its layers puts out."""

import contextlib
import threading

import keras
from keras import ops

# Keras has no public way to masks, which it keeps elsewhere for tensors that take no attributes.
from keras_robust import backend
from keras_robust.backend.keras_internals import get_keras_mask
from keras_robust.backend.keras_internals import set_keras_mask
from keras_robust.models.classifier import Classifier

_LOCK = threading.Lock()


class LayerClassifier(Classifier):
    """A Keras model in which a tensor takes the place of what a layer puts out.

    It is called with `x` in the shape of that output. The model runs on its inputs, and what the
    layer gives, `h`, goes on as `h + (x - origin)`: gradients reach the layers before it, and with
    `x = origin` the model does what it does alone.

    Args:
        model: a `keras.Model`.
        layer: str, the name of a layer.
        inputs: the inputs of the model, a tensor or a structure of tensors; if they are
            `keras.KerasTensor`, so is `origin`, and nothing can be called.

    Attributes: `origin`, float32, the output of the layer in inference mode; `mask`, the Keras mask
    of that output, or `None`.
    """

    def __init__(self, model, layer, inputs):
        super().__init__(model, pack=lambda x: inputs)
        self._layer = _find(model, layer)
        if not model.built:
            # While Keras builds a model it runs layers an additional time.
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
        output = _the_only(outputs, layer)
        self.num_calls = 0
        self.origin = ops.cast(output, "float32")
        self.mask = get_keras_mask(output)

    def __call__(self, x, training=False):
        def move(output):
            # `x` may be `origin` itself, of which the gradient must not be taken twice.
            delta = x - ops.stop_gradient(self.origin)
            moved = output + ops.cast(delta, output.dtype)
            mask = get_keras_mask(output)
            if mask is not None:
                set_keras_mask(moved, mask)
            return moved

        with changed_output(self._layer, move):
            return super().__call__(x, training=training)


@contextlib.contextmanager
def changed_output(layer, change):
    """Within, and in this thread, what `layer` computes passes through the function `change`.

    Keras has no hooks. Every call of a layer ends in `layer.call`, before masks and activity
    regularisers: an attribute of the instance hides the method for as long as somebody needs it.
    The replicas of a strategy trace in threads, which may take turns in the middle of a model.
    """
    thread = threading.get_ident()
    with _LOCK:
        tap = vars(layer).get("call")
        if not isinstance(tap, _Tap):
            tap = _Tap(layer.call, hidden=tap)
            vars(layer)["call"] = tap
        tap.changes[thread] = change
    try:
        yield
    finally:
        with _LOCK:
            del tap.changes[thread]
            if not tap.changes:
                del vars(layer)["call"]
                if tap.hidden is not None:
                    vars(layer)["call"] = tap.hidden


class _Tap:
    """Stands in for `layer.call`."""

    def __init__(self, call, hidden):
        self.call = call
        self.hidden = hidden
        self.changes = {}

    def __call__(self, *args, **kwargs):
        output = self.call(*args, **kwargs)
        change = self.changes.get(threading.get_ident())
        return output if change is None else change(output)


def _find(model, name):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Perturbing at a layer needs a keras.Model, in which to look for it. "
            f"Received: an object of type {type(model).__name__}"
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


def _the_only(outputs, name):
    """Returns what the layer put out, if it ran once and that is one float tensor."""
    if len(outputs) != 1:
        raise ValueError(
            "A layer whose output is perturbed must run once in a pass: name a layer behind it, or "
            "call a layer of its own at every place. "
            f"Received: layer={name!r}, which runs {len(outputs)} times"
        )
    output = outputs[0]
    if keras.tree.is_nested(output) or "float" not in str(getattr(output, "dtype", None)):
        raise ValueError(
            "A layer whose output is perturbed must return one float tensor: name a layer behind "
            f"it. Received: layer={name!r}, which returns {output}"
        )
    return output
