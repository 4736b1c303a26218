"""JAX: gradients of an objective on one batch, and the optimizer step."""

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
    """Computes gradients of pure functions, and assigns their updates of variables.

    As in Keras's own train step on JAX, an unused weight has a gradient of zeros, and an assignment
    of a layer to a trainable weight lasts for one pass only. Compiled code cannot raise an error,
    so that the `requirements` of the result must be checked afterwards.
    """

    def backward(self, loss, found, *, batch=None, weights=None, update_state=True):
        self.classifier.note_start()
        # The attack is no part of the loss: gradients must not flow through its steps.
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
            # The assigned values are tracers of `grad`, so they must leave it as results.
            return scaled, (value, scope.values_of(assigned), _seen(clean), _seen(adversarial))

        gradients, (value, updates, clean, adversarial) = jax.grad(run, (0, 1), has_aux=True)(
            sources, x_adv
        )
        self._requirements += finite_loss(self.classifier.model, value)
        self._keep(assigned, updates, weights, update_state)
        adversarial_batch = (batch or self.batch)._replace(x=x_adv)
        return StepResult(
            value,
            *gradients,
            ForwardPass(self.classifier, self.batch, outputs=_unpacked(clean)),
            ForwardPass(self.classifier, adversarial_batch, found, outputs=_unpacked(adversarial)),
            zero_gradient=found.zero_gradient,
        )

    def apply(self, result):
        self._note_outputs(result)
        model = self.classifier.model
        optimizer, trained = model.optimizer, model.trainable_variables
        # `stateless_apply` needs the values of variables that exist.
        if not optimizer.built:
            optimizer.build(trained)
        weights, state = optimizer.stateless_apply(
            [variable.value for variable in optimizer.variables],
            result.gradients,
            [variable.value for variable in trained],
        )
        assign([*trained, *optimizer.variables], [*weights, *state])
        return self._complete(result)

    def _untracked_state(self):
        """Returns the ids of the variables that Keras's own train step does not track.

        Keras discards their values, such as the states of recurrent layers.
        """
        return _ids(self.classifier.state) - _ids(self.classifier.model.variables)

    def _keep(self, assigned, updates, weights, update_state):
        """Assigns those values of a pass that stay after it."""
        trained = _ids(self.classifier.model.trainable_variables)
        if weights is not None or not update_state:
            refuse_assigned([variable for variable in assigned if id(variable) in trained])
        kept = self._kept_ids(_ids(assigned) - trained, weights, update_state)
        for variable, value in zip(assigned, updates, strict=True):
            if id(variable) in kept:
                variable.assign(value)

    def _kept_ids(self, assigned, weights, update_state):
        """Returns the ids of the variables that keep the values that a pass assigned to them."""
        model = self.classifier.model
        if not update_state:
            # Keras logs the loss of each output, which is to be that at the weights of the model.
            metrics = model.metrics if weights is None else ()
            return _ids(variable for metric in metrics for variable in metric.variables)
        kept = assigned - self._untracked_state()
        # Keras leaves metrics out of `model.variables`, so that they skip passes at other weights.
        return kept if weights is None else kept & _ids(model.variables)


def _ids(variables):
    return {id(variable) for variable in variables}


def _seen(forward_pass):
    """Returns the outputs of a `ForwardPass`, or `None`, and the logits behind them."""
    outputs = forward_pass.outputs if forward_pass.was_used else None
    # `grad` returns other arrays than these, for which no logits are recorded.
    return outputs, [keras_logits(leaf) for leaf in keras.tree.flatten(outputs)]


def _unpacked(seen):
    """Returns the outputs in the result of `_seen`, and records their logits."""
    outputs, logits = seen
    for leaf, behind in zip(keras.tree.flatten(outputs), logits, strict=True):
        if behind is not None:
            set_keras_logits(leaf, behind)
    return outputs
