"""TensorFlow: the adversarial train step."""

import keras
import tensorflow as tf

from keras_robust.backend.keras_internals import compiled_parts
from keras_robust.backend.tensorflow.ops import fold_in
from keras_robust.backend.tensorflow.ops import require
from keras_robust.models.error_context import error_context
from keras_robust.training.input_checks import check_size
from keras_robust.training.tensorflow_gradients import GradientStep
from keras_robust.training.train_step import BaseTrainStep


class TrainStep(BaseTrainStep):
    """The train step with the signature of Keras on TensorFlow: `step(data) -> logs`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.forget()

    def forget(self):
        self._xla_update = None
        self._is_built = False

    def use_xla(self):
        """Compiles the update with XLA, and runs the checks of inputs outside of it."""
        if self._num_replicas > 1:
            raise ValueError(
                "Keras cannot compile a train step with XLA under a strategy of several replicas. "
                "Use jit_compile=False. Received: jit_compile=True with "
                f"{self._num_replicas} replicas"
            )
        self._xla_update = tf.function(self._logs_and_delta, jit_compile=True, autograph=False)

    def build(self, iterator):
        """Creates the variables of model, optimizer, metrics and step before the first batch.

        If they were created in the first batch, as Keras does, TensorFlow would trace the step
        twice.
        """
        if self._is_built:
            return
        self._is_built = True
        model = self.model
        x, y, sample_weight = self._symbols(iterator)
        outputs = None
        parts = [] if y is None else _parts_to_build(model)
        if x is not None and (parts or not model.built):
            with error_context("The model cannot run on these inputs", inputs=x):
                outputs = model(_with_last_axis(model, x))
        self._refuse_frozen()
        # Building the optimizer before the model would fix an empty list of variables.
        if model.built and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        _build(parts, y, outputs)
        if x is not None and y is not None:
            self._remember(self.threat_model.bind(model, x)[0], y, sample_weight)

    def _symbols(self, iterator):
        """Returns symbolic inputs, labels and sample weights; `None` if they are not known."""
        spec = getattr(iterator, "element_spec", None)
        if spec is None or self._num_replicas > 1:
            return None, None, None
        symbols = keras.tree.map_structure(_symbol, spec)
        return keras.utils.unpack_x_y_sample_weight(symbols)

    def aggregate_logs(self, logs):
        if self._num_replicas == 1:
            return logs
        measured = {"adv_accuracy": self.adv_accuracy, "adv_loss": self.adv_loss}
        measured = {name: meter.result() for name, meter in measured.items()}
        whole = {**self.model.get_metrics_result(), **measured}
        return {name: whole.get(name, value) for name, value in logs.items()}

    def __call__(self, data):
        """Runs the step on one batch and returns the logs."""
        inputs, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # Check the size first: a layer with a fixed size would fail in its own words.
        inputs, y = self._of_fitting_size(inputs, y)
        x, required = self._requirements(inputs, y, sample_weight)
        checks = [require(one.condition, one.template, *one.values) for one in required]
        # All later operations read these copies, so that none runs before the checks pass.
        with tf.control_dependencies(checks):
            inputs = keras.tree.map_structure(_identity, inputs)
        # `build` could not create the state if it knew no shapes.
        self._remember(x, y, sample_weight)
        delta = self._carried_delta(self._delta, x) if self.objective.persistent_delta else None
        update = self._xla_update or self._logs_and_delta
        logs, delta = update(inputs, y, sample_weight, delta)
        if delta is not None:
            self._delta.assign(self._carried(delta, self._delta))
        return logs

    def _of_fitting_size(self, inputs, y):
        """Returns the batch; computing anything with it fails if its size does not fit."""
        required = check_size(self.model, keras.tree.flatten(inputs)[0])
        checks = [require(one.condition, one.template, *one.values) for one in required]
        if not checks:
            return inputs, y
        with tf.control_dependencies(checks):
            inputs = keras.tree.map_structure(tf.identity, inputs)
            return inputs, y if y is None else keras.tree.map_structure(tf.identity, y)

    def _logs_and_delta(self, inputs, y, sample_weight, delta):
        return self._update(inputs, y, sample_weight, delta)[:2]

    @property
    def _num_replicas(self):
        return self.model.distribute_strategy.num_replicas_in_sync

    def _of_replica(self, seed):
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            return fold_in(seed, tf.cast(replica.replica_id_in_sync_group, tf.int32))
        return seed

    def _make_gradient_step(self, classifier, batch):
        # XLA would drop the checks.
        return GradientStep(classifier, batch, checks_outputs=self._xla_update is None)

    def _new_objective_state(self, x, y, sample_weight):
        with tf.init_scope():
            return super()._new_objective_state(x, y, sample_weight)

    def _new_delta(self, x):
        shape = tuple(x.shape[1:])
        with tf.init_scope():
            # `init_scope` creates the variable outside of the graph that is being traced.
            # No rows yet, since the batch size may vary; `_carried_delta` adds rows of zeros.
            start = tf.zeros((0, *shape), tf.float32)
            return tf.Variable(start, shape=(None, *shape), trainable=False)


def _parts_to_build(model):
    return [part for part in compiled_parts(model) if not part.built]


def _build(parts, y, outputs):
    """Builds the compiled metrics and the compiled loss."""
    if _is_other_form(y, outputs):
        # Keras converts one form to the other when it calls the metrics and the loss.
        return
    for part in parts:
        with error_context("The labels do not fit the model", outputs=outputs, labels=y):
            part.build(y, outputs)


def _with_last_axis(model, inputs):
    """Returns symbolic inputs with the last axis of size 1 that the model expects, or without it.

    Keras itself adds or drops this axis only for tensors.
    """
    wanted, leaves = getattr(model, "inputs", None) or [], keras.tree.flatten(inputs)
    if isinstance(inputs, dict):
        # Keras matches a dict by names; `flatten` sorts the names.
        by_name = {tensor.name: tensor for tensor in wanted}
        # Keras sets `input` at the first call.
        named = getattr(model, "input", None) if wanted else None
        by_name.update(named if isinstance(named, dict) else {})
        wanted = [by_name.get(name) for name in sorted(inputs)]
    if len(wanted) != len(leaves):
        return inputs
    leaves = [_of_rank(leaf, one) for leaf, one in zip(leaves, wanted, strict=True)]
    return keras.tree.pack_sequence_as(inputs, leaves)


def _of_rank(x, wanted):
    if wanted is None or not hasattr(x, "shape"):
        return x
    shape, expected = tuple(x.shape), tuple(wanted.shape)
    if len(shape) == len(expected) - 1 and expected[-1] == 1:
        return keras.KerasTensor((*shape, 1), x.dtype)
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        return keras.KerasTensor(shape[:-1], x.dtype)
    return x


def _is_other_form(y, outputs):
    """Returns whether one structure is a dict and the other a list of outputs."""
    are_nested = keras.tree.is_nested(y) and keras.tree.is_nested(outputs)
    return are_nested and isinstance(y, dict) != isinstance(outputs, dict)


def _identity(leaf):
    if isinstance(leaf, tf.SparseTensor):
        return leaf.with_values(tf.identity(leaf.values))
    return tf.identity(leaf)


def _symbol(spec):
    """Returns a symbolic tensor for a tensor specification, and `None` for anything else."""
    if isinstance(spec, tf.SparseTensorSpec):
        return keras.KerasTensor(spec.shape, spec.dtype.name, sparse=True)
    if not isinstance(spec, tf.TensorSpec):
        return None
    return keras.KerasTensor(spec.shape, spec.dtype.name)
