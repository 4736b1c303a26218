"""Compute dtypes of the layers of a model, changed while a function runs or is traced."""

import contextlib
import threading
import weakref

import keras

from keras_robust.backend.keras_internals import DTYPE_POLICY
from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.patched import LOCK
from keras_robust.backend.patched import patched

LOW = ("bfloat16", "float16")

_THREAD = threading.local()
# These layers are cheap, and may need all digits of their inputs: in bfloat16, 1003 is 1004.
_KEPT = (keras.layers.Normalization, keras.layers.Rescaling)


def current_dtype():
    """Returns the compute dtype that a scope sets in this thread, or `None` outside of a scope."""
    return getattr(_THREAD, "dtype", None)


@contextlib.contextmanager
def compute_dtype_scope(model, dtype):
    """Makes the float32 layers of `model` compute in `dtype`, inside the context and this thread.

    Weights keep their dtypes, and are cast when a layer reads them. These do not change:

    - layers with `autocast=False`, which handle their dtypes themselves; layers of Keras with
      `autocast=False`, such as `BatchNormalization`, do change, because they support any dtype;
    - layers with a policy other than float32, and quantized layers;
    - `Normalization` and `Rescaling`;
    - nested models, which compute nothing outside of their layers;
    - models in which a layer already computes in half precision, since their user has chosen a
      dtype for each layer.

    Every policy is wrapped, and restored on exit, also after an exception. The replicas of a
    strategy trace in several threads, which may switch in the middle of a model: a wrapped policy
    changes the dtype only in threads that are inside the context.

    Args:
        model: a built `keras.Model`, or a callable, for which the context does nothing.
        dtype: `"bfloat16"`, `"float16"`, or `None` for no change.
    """
    before = current_dtype()
    layers = _float32_layers(model) if dtype is not None else []
    with contextlib.ExitStack() as stack:
        # Entered first, so that it runs last, when the layers have their own policies again.
        if layers:
            stack.callback(_restore_copies, model)
        for layer in layers:
            # The setter of Keras would change the entry of a map of policies.
            stack.enter_context(patched(layer, DTYPE_POLICY, _Wrapped))
        _THREAD.dtype = dtype if layers else None
        try:
            yield
        finally:
            _THREAD.dtype = before


class _Wrapped(keras.DTypePolicy):
    """The policy of a layer, with another compute dtype in threads that are inside a scope."""

    def __init__(self, layer):
        super().__init__("float32")
        # Weak, because a layer that outlives the model may have copied this policy.
        self._layer = weakref.ref(layer)
        self.policy = _policy_of(layer)

    @property
    def is_in_use(self):
        """Whether the layer for which the policy was made has it."""
        layer = self._layer()
        return layer is not None and _policy_of(layer) is self

    @property
    def compute_dtype(self):
        return current_dtype() or "float32"


def _float32_layers(model):
    """Returns the layers whose dtype may change."""
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
    return "float32" if isinstance(_policy_of(layer), _Wrapped) else layer.compute_dtype


def _policy_of(layer):
    return vars(layer)[DTYPE_POLICY]


def _restore_copies(model):
    """Restores the policies of layers that copied a wrapped policy when they were created."""
    with LOCK:
        for layer in layers_of(model):
            policy = _policy_of(layer)
            while isinstance(policy, _Wrapped) and not policy.is_in_use:
                policy = policy.policy
            vars(layer)[DTYPE_POLICY] = policy
