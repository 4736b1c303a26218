"""TensorFlow: gradients of an objective on one batch, and the optimizer step."""

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
    """Computes gradients with a tape."""

    def backward(self, loss, found, *, batch=None, weights=None, update_state=True):
        self.classifier.note_start()
        model = self.classifier.model
        # The attack is no part of the loss: gradients must not flow through its steps.
        x_adv = tf.stop_gradient(found.x_adv)
        clean = ForwardPass(self.classifier, self.batch)
        adversarial = ForwardPass(self.classifier, (batch or self.batch)._replace(x=x_adv), found)
        sources, scope = model.trainable_weights, None
        if weights is not None or not update_state:
            sources = [tf.convert_to_tensor(weight) for weight in weights or sources]
            scope = _scope_with(model.trainable_weights, sources)
        with scope or contextlib.nullcontext(), tf.GradientTape() as tape:
            # A tape watches variables by itself, but not the tensors that take their place.
            tape.watch([x_adv] if scope is None else [x_adv, *sources])
            value = loss(clean, adversarial)
            scaled = model.optimizer.scale_loss(value)
        if scope is not None:
            refuse_assigned(_changed_weights(scope, model.trainable_weights, sources))
        with derivative_error_context():
            gradients = tape.gradient(scaled, [*sources, x_adv])
        if scope is not None:
            _assign(_kept_variables(model, weights, update_state), scope)
        return StepResult(
            value,
            gradients[:-1],
            gradients[-1],
            clean,
            adversarial,
            zero_gradient=found.zero_gradient,
        )

    def apply(self, result):
        model = self.classifier.model
        # Keras would only say "No gradients provided for any variable."
        if all(gradient is None for gradient in result.gradients):
            raise ValueError(
                "No gradient leads from the loss to any trainable weight. Look for a loss, a "
                "layer or an objective that rounds, casts to integers or calls code outside of "
                f"TensorFlow. Received: loss={model.loss!r} and {len(result.gradients)} trainable "
                "weights"
            )
        checks = [
            require(one.condition, one.template, *one.values)
            for one in self._note_outputs(result)
            if self._checks_outputs
        ]
        # A batch that fails a check must not change the weights.
        with tf.control_dependencies(checks):
            pairs = zip(result.gradients, model.trainable_weights, strict=True)
            model.optimizer.apply_gradients(pairs)
        return self._complete(result)

    def sum_over_replicas(self, tensors):
        replica = tf.distribute.get_replica_context()
        # The context is `None` where the strategy has not split the work among its replicas.
        if replica is None or replica.num_replicas_in_sync == 1:
            return tensors
        given = [tensor for tensor in tensors if tensor is not None]
        sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
        return [None if tensor is None else next(sums) for tensor in tensors]


def _scope_with(weights, tensors):
    """Returns a scope in which `tensors` take the place of `weights`, and nothing is assigned."""
    pairs = zip(weights, tensors, strict=True)
    return keras.StatelessScope(list(pairs), collect_losses=True)


def _changed_weights(scope, weights, tensors):
    """Returns the weights to which a pass in the scope assigned other tensors."""
    pairs = zip(weights, tensors, strict=True)
    return [weight for weight, own in pairs if scope.get_current_value(weight) is not own]


def _kept_variables(model, weights, update_state):
    """Returns the variables that keep the values that a pass in a scope gave them."""
    if update_state:
        trained = {id(weight) for weight in model.trainable_weights}
        return [variable for variable in model.variables if id(variable) not in trained]
    # Keras logs the loss of each output, which is to be that at the weights of the model.
    metrics = model.metrics if weights is None else ()
    return [variable for metric in metrics for variable in metric.variables]


def _assign(variables, scope):
    """Assigns to variables the values that a pass in a stateless scope gave them."""
    for variable in variables:
        value = scope.get_current_value(variable)
        if value is not None:
            variable.assign(value)
