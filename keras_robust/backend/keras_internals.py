"""Every private name of Keras, and of its optimizers and strategies, that this package touches.

Each has a test in `tests/backend/keras_internals_test.py` that fails when Keras renames it.
"""

import contextlib
import weakref

import keras
from keras import ops
from keras.src.backend import get_keras_mask as get_keras_mask
from keras.src.backend import set_keras_mask as set_keras_mask
from keras.src.models.functional import Functional

# Tensors that JAX traces take no attributes. Their logits are kept here, by the id of the tensor.
_LOGITS = {}

# The attributes in which a callback of Keras remembers what happened in earlier epochs.
REMEMBERED = {
    keras.callbacks.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving"),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def keras_logits(outputs):
    """Returns what went into the Keras softmax or sigmoid that made `outputs`, or `None`."""
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
    """Returns all layers of a model, nested ones too; none for what is not a Keras layer."""
    if not isinstance(model, keras.Layer):
        return []
    return list(model._flatten_layers(include_self=include_self))


def output_layer(model):
    """Returns the layer that makes the only output of a graph of layers, or `None`."""
    layer = model
    while isinstance(layer, (keras.Sequential, Functional)):
        if isinstance(layer, keras.Sequential):
            layer = layer.layers[-1] if layer.layers else None
            continue
        outputs = keras.tree.flatten(layer.outputs)
        layer = outputs[0]._keras_history.operation if len(outputs) == 1 else None
    return None if layer is model else layer


def input_tensors_of(layer):
    """Returns the symbolic tensors that a layer of a graph was called on, from all its calls."""
    return [tensor for node in layer._inbound_nodes for tensor in node.input_tensors]


def graph_of(model):
    """Returns the graph of layers in a Sequential or Functional model, or `None`."""
    graph = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    return graph if hasattr(graph, "_run_through_graph") else None


def run_graph(graph, value, replace):
    """Runs a graph of layers on other values than tensors.

    Args:
        graph: as `graph_of` returns it.
        value: what goes into the only input.
        replace: function of a layer that returns the function to call in its place.
    """
    return graph._run_through_graph(value, operation_fn=replace)


def is_defined_by_keras(owner):
    """Whether a class is one of Keras itself."""
    return owner.__module__.startswith("keras.src.")


@contextlib.contextmanager
def without_regularisers(model):
    """Within, the model says that it adds a loss of 0, and no other, to the compiled loss.

    `model.losses` cannot be subtracted afterwards: under a strategy Keras adds a share of it, and a
    `compute_loss` of the user may add none. An empty list would mean that nothing is overridden.
    """
    # Not by `setattr`, which would track the list.
    vars(model)["_losses_override"] = [ops.zeros((), "float32")]
    try:
        yield
    finally:
        vars(model)["_losses_override"] = []


@contextlib.contextmanager
def without_output_metrics(model):
    """Within, the metrics in which Keras logs the loss of each output see nothing."""
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
    """Returns the compiled metrics and the compiled loss of a model, those that there are."""
    parts = (getattr(model, name, None) for name in ("_compile_metrics", "_compile_loss"))
    return [part for part in parts if part is not None]


def put_back_jax_state(model, state):
    """Makes Keras copy `state` into the variables of the model when it leaves `fit`.

    On JAX, Keras takes the values out of the variables for the length of an epoch.

    Args:
        model: the model whose `fit` runs.
        state: the four lists of values that a train step takes and returns.
    """
    names = (
        "trainable_variables",
        "non_trainable_variables",
        "optimizer_variables",
        "metrics_variables",
    )
    model._jax_state = dict(zip(names, state, strict=True))
    model._jax_state_synced = False


def dtype_policy_of(layer):
    """Returns the object that the layer reads its dtypes from.

    For a map from layers to policies, the public `dtype_policy` makes a new object.
    """
    return layer._dtype_policy


def set_dtype_policy(layer, policy):
    """Replaces that object. The public setter would change an entry of a map of policies."""
    layer._dtype_policy = policy


def num_batches(optimizer):
    """Returns the counter of batches, a tensor or variable; `iterations` counts accumulated ones.

    Args:
        optimizer: a Keras optimizer, or one that scales the loss around it.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, "_iterations", optimizer.iterations)


def learning_rate_of(optimizer):
    """Returns the learning rate as it was given: a variable or a schedule."""
    return getattr(optimizer, "_learning_rate", None)


def moving_averages(optimizer):
    """Returns pairs of a variable and its average, for `use_ema=True`; else none."""
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    return list(zip(optimizer._trainable_variables, averages, strict=True)) if averages else []


def cross_device_ops(strategy):
    """Returns the object by which a `tf.distribute` strategy sums over its replicas, or `None`."""
    return getattr(strategy.extended, "_cross_device_ops", None)


def stored_value(variable):
    """Returns the value in a variable on TensorFlow, whatever scope is open."""
    return variable._value


def assign_directly(variable, value):
    """Assigns to a variable on TensorFlow, whatever scope is open."""
    variable._direct_assign(value)


class NestedScope(keras.StatelessScope):
    """A `keras.StatelessScope` that knows the scope around it."""

    original_scope = None

    @property
    def outer(self):
        """The scope that was open when this one was entered, or `None`."""
        return self.original_scope

    def fill_new_variables(self, fill):
        """Chooses whether variables that are made within get their values when it is left."""
        self.initialize_variables = fill


def start_fit_at(model, epoch):
    """Makes the running `fit` start to count at `epoch`, as Keras's own backup does."""
    model._initial_epoch = epoch


def is_of_one_batch(iterator):
    """Whether this is the generator that `train_on_batch` makes of its arguments."""
    return "train_on_batch" in getattr(iterator, "__qualname__", "")


def callback_list_around(callback, frame):
    """Returns the `keras.callbacks.CallbackList` that calls a method of `callback`, or `None`.

    Keras hands the list to none of its callbacks.

    Args:
        callback: the callback.
        frame: the frame from which its method was called.
    """
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            return owner
        # A subclass may call `super().set_model`, which adds a frame of the callback itself.
        frame = frame.f_back if owner is callback else None
    return None


def is_seed(variable):
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return variable.name == "seed_generator_state"


def is_clock(variable):
    """Whether a variable of an optimizer is its step counter or its learning rate."""
    return variable.name in ("iteration", "learning_rate")
