"""The private names of Keras, its optimizers and its strategies that this package uses.

Each has a test in `tests/backend/keras_internals_test.py` that fails when Keras renames it.
"""

import contextlib
import weakref

import keras
from keras import ops
from keras.src.backend import get_keras_mask as get_keras_mask
from keras.src.backend import set_keras_mask as set_keras_mask
from keras.src.models.functional import Functional

# Tracers of JAX take no attributes. Their logits are stored here, by the id of the tensor.
_LOGITS = {}

# The attribute from which a layer reads its dtypes, an object. The public `dtype_policy` returns a
# new object if the policy comes from a map of policies, and its setter changes the map.
DTYPE_POLICY = "_dtype_policy"

# The attributes in which the callbacks of Keras store what later epochs depend on.
REMEMBERED = {
    keras.callbacks.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving"),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def keras_logits(outputs):
    """Returns the inputs of the Keras softmax or sigmoid that computed `outputs`, or `None`."""
    kept = getattr(outputs, "_keras_logits", None)
    return _LOGITS.get(id(outputs)) if kept is None else kept


def set_keras_logits(outputs, logits):
    """Makes `keras_logits` return `logits` for the tensor `outputs`."""
    try:
        outputs._keras_logits = logits
    except AttributeError:
        if id(outputs) not in _LOGITS:
            weakref.finalize(outputs, _LOGITS.pop, id(outputs), None)
        _LOGITS[id(outputs)] = logits


def layers_of(model, include_self=True):
    """Returns all layers of a model, nested layers included; `[]` if it is not a Keras layer."""
    if not isinstance(model, keras.Layer):
        return []
    return list(model._flatten_layers(include_self=include_self))


def output_layer(model):
    """Returns the layer that computes the only output of a graph of layers, or `None`."""
    layer = model
    while isinstance(layer, (keras.Sequential, Functional)):
        if isinstance(layer, keras.Sequential):
            layer = layer.layers[-1] if layer.layers else None
            continue
        # The layer may be a nested model, which the loop enters.
        outputs = keras.tree.flatten(layer.outputs)
        layer = outputs[0]._keras_history.operation if len(outputs) == 1 else None
    return None if layer is model else layer


def input_tensors_of(layer):
    """Returns the symbolic input tensors of all calls of a layer in a graph."""
    return [tensor for node in layer._inbound_nodes for tensor in node.input_tensors]


def graph_of(model):
    """Returns the graph of layers of a Sequential or Functional model, or `None`."""
    graph = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    return graph if hasattr(graph, "_run_through_graph") else None


def run_graph(graph, value, replace):
    """Runs a graph of layers on values that are not tensors.

    Args:
        graph: a graph that `graph_of` returned.
        value: the value of the only input.
        replace: function that maps a layer to the function to call instead.
    """
    return graph._run_through_graph(value, operation_fn=replace)


def is_defined_by_keras(owner):
    """Returns whether a class is defined by Keras."""
    return owner.__module__.startswith("keras.src.")


def added_losses(model):
    """Returns the part of `model.losses` that depends on the inputs of the last run of the model.

    These are activity regularizers and the arguments of `add_loss`. The rest are the regularizers
    of weights, which Keras computes anew whenever `model.losses` is read.
    """
    return [loss for layer in layers_of(model) for loss in layer._get_own_losses()]


@contextlib.contextmanager
def with_regularisers(model, losses):
    """Makes `losses` the regularizers of the model inside the context.

    `model.losses` cannot be subtracted afterwards: under a strategy Keras adds only a share of it,
    and a custom `compute_loss` may not add it at all.

    Args:
        model: a `keras.Model`.
        losses: list of scalar tensors. An empty list counts as one zero, because Keras ignores an
            override by an empty list.
    """
    # `setattr` would have Keras track the list.
    vars(model)["_losses_override"] = list(losses) or [ops.zeros((), "float32")]
    try:
        yield
    finally:
        vars(model)["_losses_override"] = []


@contextlib.contextmanager
def without_output_metrics(model):
    """Disables, inside the context, the metrics in which Keras logs the loss of each output."""
    compiled = getattr(model, "_compile_loss", None)
    metrics = getattr(compiled, "_metrics", None)
    if not metrics:
        yield
        return
    compiled._metrics = [None] * len(metrics)
    try:
        yield
    finally:
        compiled._metrics = metrics


def compiled_parts(model):
    """Returns a list of the compiled metrics and the compiled loss of a model, where they exist."""
    parts = (getattr(model, name, None) for name in ("_compile_metrics", "_compile_loss"))
    return [part for part in parts if part is not None]


def put_back_jax_state(model, state):
    """Makes Keras copy `state` into the variables of the model at the end of `fit`.

    On JAX, Keras keeps the values outside of the variables during an epoch.

    Args:
        model: the model that is in `fit`.
        state: the four lists of values that a train step takes and returns.
    """
    names = (
        "trainable_variables",
        "non_trainable_variables",
        "optimizer_variables",
        "metrics_variables",
    )
    model._jax_state = dict(zip(names, state, strict=True))
    # Keras copies only a state that is not marked as copied.
    model._jax_state_synced = False


def num_batches(optimizer):
    """Returns the counter of batches of an optimizer, a tensor or a variable.

    With gradient accumulation it is larger than `iterations`.

    Args:
        optimizer: a Keras optimizer, or a loss scaling optimizer around one.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, "_iterations", optimizer.iterations)


def learning_rate_of(optimizer):
    """Returns the learning rate that the optimizer was given: a variable or a schedule."""
    return getattr(optimizer, "_learning_rate", None)


def moving_averages(optimizer):
    """Returns pairs of a variable and its average for `use_ema=True`, otherwise `[]`."""
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    return list(zip(optimizer._trainable_variables, averages, strict=True)) if averages else []


def cross_device_ops(strategy):
    """Returns the object with which a `tf.distribute` strategy sums over replicas, or `None`."""
    return getattr(strategy.extended, "_cross_device_ops", None)


def stored_value(variable):
    """Returns the value of a variable on TensorFlow, and ignores any open scope."""
    return variable._value


def assign_directly(variable, value):
    """Assigns to a variable on TensorFlow, and ignores any open scope."""
    variable._direct_assign(value)


class NestedScope(keras.StatelessScope):
    """A `keras.StatelessScope` with access to the scope around it."""

    original_scope = None

    @property
    def outer(self):
        """The scope that was open when this one was entered, or `None`."""
        return self.original_scope

    def fill_new_variables(self, fill):
        """Sets whether variables created inside receive their initial values on exit."""
        self.initialize_variables = fill


def start_fit_at(model, epoch):
    """Makes the running `fit` start at `epoch`, as Keras's own backup does."""
    model._initial_epoch = epoch


def is_of_one_batch(iterator):
    """Returns whether an iterator is the generator that `train_on_batch` creates."""
    return "train_on_batch" in getattr(iterator, "__qualname__", "")


def callback_list_around(callback, frame):
    """Returns the `keras.callbacks.CallbackList` that calls a method of `callback`, or `None`.

    The list is searched in the stack, because Keras does not pass it to callbacks.

    Args:
        callback: the callback.
        frame: the frame that called its method.
    """
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            return owner
        # A subclass may call `super().set_model`, which adds a frame of the callback itself.
        frame = frame.f_back if owner is callback else None
    return None


def is_seed(variable):
    """Returns whether a variable is the state of a `keras.random.SeedGenerator`."""
    return variable.name == "seed_generator_state"


def is_clock(variable):
    """Returns whether a variable of an optimizer is its step counter or its learning rate."""
    return variable.name in ("iteration", "learning_rate")
