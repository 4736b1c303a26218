"""TensorFlow: gradients of an objective on one batch, and the optimizer that takes them."""

import contextlib

import keras
import tensorflow as tf

from keras_robust.backend.tensorflow.ops import derivative_error_context
from keras_robust.backend.tensorflow.ops import require
from keras_robust.training.forward_pass import ForwardPass
from keras_robust.training.gradients import BaseGradientStep
from keras_robust.training.gradients import StepResult
from keras_robust.training.gradients import refuse_assigned


class GradientStep(BaseGradientStep):
    """Takes gradients with a tape."""

    def backward(self, loss, found, *, batch=None, weights=None, update_state=True):
        self.classifier.note_start()
        model = self.classifier.model
        x_adv = tf.stop_gradient(found.x_adv)
        clean = ForwardPass(self.classifier, self.batch)
        adversarial = ForwardPass(self.classifier, (batch or self.batch)._replace(x=x_adv), found)
        scope, watched, sources = contextlib.nullcontext(), [x_adv], model.trainable_weights
        if weights is not None or not update_state:
            # Inside, nothing is assigned, and every weight that Keras reads must be given.
            sources = [tf.convert_to_tensor(weight) for weight in weights or sources]
            pairs = zip(model.trainable_weights, sources, strict=True)
            scope = keras.StatelessScope(list(pairs), collect_losses=True)
            watched += sources
        with scope, tf.GradientTape() as tape:
            tape.watch(watched)
            value = loss(clean, adversarial)
            scaled = model.optimizer.scale_loss(value)
        if isinstance(scope, keras.StatelessScope):
            pairs = zip(model.trainable_weights, sources, strict=True)
            refuse_assigned([w for w, value in pairs if scope.get_current_value(w) is not value])
        with derivative_error_context():
            gradients = tape.gradient(scaled, [*sources, x_adv])
        if update_state and weights is not None:
            trained = {id(weight) for weight in model.trainable_weights}
            _assign([v for v in model.variables if id(v) not in trained], scope)
        if not update_state and weights is None:
            # Keras logs the losses of several outputs as those at the weights of the model.
            _assign([v for metric in model.metrics for v in metric.variables], scope)
        return StepResult(value, gradients[:-1], gradients[-1], clean, adversarial)

    def apply(self, result):
        model = self.classifier.model
        if all(gradient is None for gradient in result.gradients):
            raise ValueError(
                "No gradient leads from the loss to any trainable weight. Look for a loss, a layer "
                "or an objective that rounds, casts to integers or leaves TensorFlow. Received: "
                f"loss={model.loss!r} and {len(result.gradients)} trainable weights"
            )
        checks = [
            require(one.condition, one.template, *one.values)
            for one in self._note_outputs(result)
            if self._checks_outputs
        ]
        with tf.control_dependencies(checks):
            pairs = zip(result.gradients, model.trainable_weights, strict=True)
            model.optimizer.apply_gradients(pairs)
        return result

    def sum_over_replicas(self, tensors):
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return tensors
        given = [tensor for tensor in tensors if tensor is not None]
        sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
        return [None if tensor is None else next(sums) for tensor in tensors]


def _assign(variables, scope):
    """Assigns to some variables what a pass in a stateless scope would have changed them to."""
    for variable in variables:
        value = scope.get_current_value(variable)
        if value is not None:
            variable.assign(value)
