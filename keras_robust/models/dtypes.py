"""Compute dtypes of the layers of a model, changed while a function runs or is traced."""

import contextlib
import re
import threading

import keras

from keras_robust.backend.keras_internals import DTYPE_POLICY
from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.patched import LOCK
from keras_robust.backend.patched import patched

LOW = ("bfloat16", "float16")

# How error messages of TensorFlow and JAX spell the two dtypes.
_SPELLINGS = {"bfloat16": "bfloat16|bf16", "float16": "float16|f16|half"}
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


@contextlib.contextmanager
def attack_dtype_scope(model, dtype):
    """A `compute_dtype_scope` that explains the errors of layers with a fixed dtype.

    An error whose text names `dtype` comes from such a layer. Other errors are raised unchanged,
    and so are all errors of a model whose layers keep their dtypes.

    Args:
        model: as in `compute_dtype_scope`.
        dtype: `"bfloat16"` or `"float16"`.

    Raises:
        ValueError: if code inside the context cannot run in `dtype`.
    """
    is_changed = False
    try:
        with compute_dtype_scope(model, dtype):
            is_changed = current_dtype() is not None
            yield
    except Exception as error:
        if not is_changed or not _names_dtype(error, dtype):
            raise
        raise ValueError(
            f"The model cannot run in {dtype}: a layer has a fixed dtype. Give that layer "
            "autocast=False, so that it stays in float32 and casts its inputs itself, or use "
            f"attack_dtype=None. Received: attack_dtype={dtype!r} and the error {error}"
        ) from error


def _names_dtype(error, dtype):
    """Returns whether the text of an error, or of an error that caused it, names the dtype."""
    pattern = rf"(?<![a-z])({_SPELLINGS[dtype]})(?![a-z])"
    while error is not None:
        # After these words Keras lists the inputs of the layer with their dtypes, for any error.
        reason = str(error).partition("Arguments received by")[0]
        if re.search(pattern, reason, re.IGNORECASE):
            return True
        error = error.__cause__
    return False


class _Wrapped(keras.DTypePolicy):
    """The policy of a layer, with another compute dtype in threads that are inside a scope."""

    def __init__(self, layer):
        super().__init__("float32")
        self.layer = layer
        self.policy = _policy_of(layer)

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
            # A wrapped policy is in use as long as the layer that it was made for still has it.
            while isinstance(policy, _Wrapped) and _policy_of(policy.layer) is not policy:
                policy = policy.policy
            vars(layer)[DTYPE_POLICY] = policy
