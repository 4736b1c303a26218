"""JAX: gradients of an objective on one batch, and the optimizer that takes them."""

import jax
import keras

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign
from keras_robust.backend.keras_internals import keras_logits
from keras_robust.backend.keras_internals import set_keras_logits
from keras_robust.models.guards import finite_loss
from keras_robust.training.forward_pass import ForwardPass
from keras_robust.training.gradients import BaseGradientStep
from keras_robust.training.gradients import StepResult
from keras_robust.training.gradients import refuse_assigned


class GradientStep(BaseGradientStep):
    """Takes gradients of functions, and carries their side effects out of them.

    As in Keras's own train step on this backend, a weight without use has a gradient of zeros, and
    what a layer assigns to a trainable weight while it runs counts for that pass only. Nothing can
    stop in the middle of compiled code: `requirements` must be looked at afterwards.
    """

    def backward(self, loss, found, *, batch=None, weights=None, update_state=True):
        self.classifier.note_start()
        x_adv = jax.lax.stop_gradient(jax.numpy.asarray(found.x_adv))
        trained = self.classifier.model.trainable_variables
        sources = [jax.numpy.asarray(weight) for weight in weights or trained]
        assigned = []

        def run(sources, x_adv):
            with Scope(zip(trained, sources, strict=True)) as scope:
                clean = ForwardPass(self.classifier, self.batch)
                moved = (batch or self.batch)._replace(x=x_adv)
                adversarial = ForwardPass(self.classifier, moved, found)
                value = loss(clean, adversarial)
                scaled = self.classifier.model.optimizer.scale_loss(value)
            assigned.extend(scope.assigned)
            return scaled, (value, scope.values_of(assigned), _seen(clean), _seen(adversarial))

        gradients, (value, updates, clean, adversarial) = jax.grad(run, (0, 1), has_aux=True)(
            sources, x_adv
        )
        self.requirements += finite_loss(self.classifier.model, value)
        self._keep(assigned, updates, weights, update_state)
        adversarial_batch = (batch or self.batch)._replace(x=x_adv)
        return StepResult(
            value,
            *gradients,
            ForwardPass(self.classifier, self.batch, outputs=_unpacked(clean)),
            ForwardPass(self.classifier, adversarial_batch, found, outputs=_unpacked(adversarial)),
        )

    def apply(self, result):
        self._note_outputs(result)
        model = self.classifier.model
        optimizer, trained = model.optimizer, model.trainable_variables
        if not optimizer.built:
            optimizer.build(trained)
        weights, state = optimizer.stateless_apply(
            [variable.value for variable in optimizer.variables],
            result.gradients,
            [variable.value for variable in trained],
        )
        assign([*trained, *optimizer.variables], [*weights, *state])
        return result

    def _untracked_state(self):
        """Returns the ids of what Keras's own step forgets here: states of recurrent layers."""
        tracked = {id(variable) for variable in self.classifier.model.variables}
        return {id(variable) for variable in self.classifier.state} - tracked

    def _keep(self, assigned, updates, weights, update_state):
        """Assigns what a pass has changed, as far as it is to outlive it."""
        model = self.classifier.model
        trained = {id(variable) for variable in model.trainable_variables}
        if weights is not None or not update_state:
            refuse_assigned([variable for variable in assigned if id(variable) in trained])
        kept = {id(variable) for variable in assigned} - trained - self._untracked_state()
        if weights is not None:
            kept &= {id(variable) for variable in model.variables if update_state}
        elif not update_state:
            # Keras logs the losses of several outputs as those at the weights of the model.
            kept = {id(v) for metric in model.metrics for v in metric.variables}
        for variable, value in zip(assigned, updates, strict=True):
            if id(variable) in kept:
                variable.assign(value)


def _seen(stream):
    """Returns the outputs of a stream, or `None`, and the logits that Keras knows behind them."""
    outputs = stream.outputs if stream.was_used else None
    return outputs, [keras_logits(leaf) for leaf in keras.tree.flatten(outputs)]


def _unpacked(seen):
    """Returns the outputs of `_seen`, with the logits where Keras looks for them."""
    outputs, logits = seen
    for leaf, behind in zip(keras.tree.flatten(outputs), logits, strict=True):
        if behind is not None:
            set_keras_logits(leaf, behind)
    return outputs
