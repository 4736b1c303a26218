"""JAX: the adversarial train step."""

import jax
import keras
import numpy as np
from keras import ops

from keras_robust.backend.jax.function import Function
from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign
from keras_robust.backend.keras_internals import put_back_jax_state
from keras_robust.training.jax_gradients import GradientStep
from keras_robust.training.train_step import BaseTrainStep


class TrainStep(BaseTrainStep):
    """The train step with the signature of Keras on JAX: `step(state, data) -> (logs, state)`.

    It runs on the host, and calls a compiled update without side effects. If a batch does not
    fulfill the requirements, the step raises ValueError, and all variables keep their values.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._state = None
        self.forget()

    def forget(self):
        self._is_compiled = False
        self._function = None

    def use_xla(self):
        self._is_compiled = True
        self._function = None

    def wrap_train_function(self, train_function, check):
        def run_batch(state, iterator):
            # `__call__` replaces it after every whole step, so that a failing one leaves no trace.
            self._state = state
            try:
                result = train_function(state, iterator)
                check()
                return result
            except BaseException as error:
                put_back_jax_state(self.model, self._state)
                # `StopIteration` is the regular end of the data.
                if not isinstance(error, StopIteration):
                    _keep_weights(self.model.optimizer)
                raise
            finally:
                self._state = None

        return run_batch

    def __call__(self, state, data):
        """Runs the step on one batch, and returns the logs and the new state of all variables."""
        inputs, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        values, structure = jax.tree.flatten(state)
        # The shapes of the data are known with the first batch only.
        if self._function is None:
            self._refuse_frozen()
            variables = self._variables()
            self._remember_shapes(zip(variables, values, strict=True), inputs, y, sample_weight)
            self._function = Function(
                self._checked_update,
                variables,
                others=self._own_variables,
                is_compiled=self._is_compiled,
            )
        (logs, delta, required), values, updates = self._function.call(
            values, inputs, y, sample_weight, self._delta
        )
        # Raise before anything is assigned, so that all variables keep their values.
        self._raise_unless(*required)
        assign(*updates)
        self._delta = delta
        self._state = state = jax.tree.unflatten(structure, values)
        return logs, state

    def _variables(self):
        """Returns the variables whose values are the state, in the order of Keras."""
        model = self.model
        variables = model.trainable_variables + model.non_trainable_variables
        return variables + model.optimizer.variables + model.metrics_variables

    def _remember_shapes(self, values, inputs, y, sample_weight):
        """Creates the state of the objective at the first batch."""

        def exposed(inputs, y, sample_weight):
            with Scope(values):
                return self.threat_model.bind(self.model, inputs)[0], y, sample_weight

        x, y, sample_weight = jax.eval_shape(exposed, inputs, y, sample_weight)
        self._remember(x, y, sample_weight)

    def _checked_update(self, inputs, y, sample_weight, kept):
        """Takes the step; returns the logs, the perturbation and the requirements."""
        x, required = self._requirements(inputs, y, sample_weight)
        delta = None if kept is None else self._carried_delta(kept, x)
        logs, delta, more = self._update(inputs, y, sample_weight, delta)
        if delta is not None:
            kept = self._carried(delta, kept)
        required = required + more
        conditions = [one.condition for one in required]
        # The host reads one flag for a valid batch, and the conditions only if it is false.
        holds = jax.numpy.all(jax.numpy.asarray([True, *conditions]))
        templates = _Texts(one.template for one in required)
        return logs, kept, (holds, conditions, [one.values for one in required], templates)

    def _raise_unless(self, holds, conditions, values, templates):
        """Raises ValueError for the first requirement that is not fulfilled."""
        if np.all(holds):
            return
        for condition, template, found in zip(conditions, templates, values, strict=True):
            if not np.all(condition):
                raise ValueError(template.format(*(f"{float(value):g}" for value in found)))

    def _make_gradient_step(self, classifier, batch):
        return GradientStep(classifier, batch)

    def _new_delta(self, x):
        # The full shape: an empty perturbation that grows would compile the step twice.
        return ops.zeros(x.shape, "float32")


class _Texts(tuple):
    """A tuple of strings that compiled code can return; they are those of its trace."""


jax.tree_util.register_pytree_node(_Texts, lambda texts: ((), texts), lambda texts, _: texts)


def _keep_weights(optimizer):
    """Makes Keras leave the weights unchanged at the end of the failing `fit`.

    With `use_ema=True`, Keras would replace the weights by their averages, which are zeros in the
    first batch.
    """

    def skip(weights):
        vars(optimizer).pop("finalize_variable_values")

    vars(optimizer)["finalize_variable_values"] = skip
