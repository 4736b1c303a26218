"""The layers of a model in another dtype than they have, while a function runs or is traced."""

import contextlib
import threading

import keras

from keras_robust.backend.keras_internals import dtype_policy_of
from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import set_dtype_policy

LOW = ("bfloat16", "float16")

_LOCK = threading.Lock()
_THREAD = threading.local()
# Cheap, and what they subtract may need all digits: in bfloat16, 1003 is 1004.
_KEPT = (keras.layers.Normalization, keras.layers.Rescaling)


def current_dtype():
    """Returns the dtype in which the float32 layers of a model compute in this thread, if another.

    Otherwise `None`.
    """
    return getattr(_THREAD, "dtype", None)


@contextlib.contextmanager
def compute_dtype_scope(model, dtype):
    """Within, and in this thread, the float32 layers of `model` compute in `dtype`.

    Weights stay what they are, and are cast when a layer reads them. Models within models are not
    layers here: they cast nothing. What stays as it is: layers with `autocast=False`, which see
    to their dtypes themselves, but for Keras's own, such as `BatchNormalization`, which know what
    to do; those with a policy other than float32 or with a quantised one; `Normalization` and
    `Rescaling`; and any model of which a layer computes in half precision already, since its user
    has chosen for each layer.

    Every policy is wrapped, and put back as it was, also after an exception. The replicas of a
    strategy trace in threads, which may take turns in the middle of a model: a wrapped policy
    changes the dtype only for threads that are within.

    Args:
        model: a `keras.Model` that is built, or a callable, of which nothing changes.
        dtype: `"bfloat16"`, `"float16"`, or `None` for no change.
    """
    before = current_dtype()
    layers = _float32_layers(model) if dtype is not None else []
    _enter(layers)
    _THREAD.dtype = dtype if layers else None
    try:
        yield
    finally:
        _THREAD.dtype = before
        _leave(model, layers)


class _Wrapped(keras.DTypePolicy):
    """The policy of a layer, but for the compute dtype in threads that are within."""

    def __init__(self, policy):
        super().__init__("float32")
        self.policy = policy
        self.users = 0

    @property
    def compute_dtype(self):
        return current_dtype() or "float32"


def _float32_layers(model):
    """Returns the layers that may change their dtype, or none at all."""
    layers = layers_of(model)
    if any(_own_dtype(layer) in LOW for layer in layers):
        return []
    return [
        layer
        for layer in layers
        if _own_dtype(layer) == layer.variable_dtype == "float32"
        and (layer.autocast or type(layer).__module__.startswith("keras."))
        and layer.quantization_mode is None
        and not isinstance(layer, (keras.Model, *_KEPT))
    ]


def _own_dtype(layer):
    policy = dtype_policy_of(layer)
    return "float32" if isinstance(policy, _Wrapped) else layer.compute_dtype


def _enter(layers):
    with _LOCK:
        for layer in layers:
            if not isinstance(dtype_policy_of(layer), _Wrapped):
                # Of a map from layers to policies, the setter of Keras would change an entry.
                set_dtype_policy(layer, _Wrapped(dtype_policy_of(layer)))
            dtype_policy_of(layer).users += 1


def _leave(model, layers):
    with _LOCK:
        for layer in layers:
            dtype_policy_of(layer).users -= 1
        # A layer made while another was running may have been given its policy.
        for layer in layers_of(model) if layers else ():
            policy = dtype_policy_of(layer)
            if isinstance(policy, _Wrapped) and not policy.users:
                set_dtype_policy(layer, policy.policy)
