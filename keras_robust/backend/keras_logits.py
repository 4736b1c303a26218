"""The logits behind probabilities, which Keras keeps as an attribute of the tensor."""

import weakref

_NAME = "_keras_logits"
# For tensors that take no attributes: those that JAX traces.
_KEPT = {}


def keras_logits(outputs):
    """Returns what went into the Keras softmax or sigmoid that made `outputs`, or `None`."""
    kept = getattr(outputs, _NAME, None)
    return _KEPT.get(id(outputs)) if kept is None else kept


def set_keras_logits(outputs, logits):
    """Has `keras_logits` return `logits` for the tensor `outputs`."""
    try:
        setattr(outputs, _NAME, logits)
    except AttributeError:
        if id(outputs) not in _KEPT:
            weakref.finalize(outputs, _KEPT.pop, id(outputs), None)
        _KEPT[id(outputs)] = logits
