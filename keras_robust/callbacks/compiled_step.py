"""Compiled train steps, kept from one `fit` to the next."""

import weakref

import keras

from keras_robust import backend
from keras_robust.backend.keras_internals import learning_rate_of
from keras_robust.configurable import Configurable

_KEPT = "_keras_robust_steps"
# Values of these types are compared by value, all others by identity.
_PLAIN = (bool, int, float, str)


class CompiledStep:
    """A `TrainStep`, and the train function of Keras around it.

    The compiled code stays valid as long as the objects that it was compiled for do not change: the
    model, the arguments of `compile`, the set of trainable weights, and the attack and the
    objective with their arguments. Warm-up and seed are data, and may change. New shapes of the
    data are traced in addition to the old ones.

    Args:
        step: a `training.TrainStep`.

    Attribute `run`: the train function, or `None` before `prepare`.
    """

    def __init__(self, step):
        self.step = step
        self.run = None
        self._made_for = None

    @property
    def is_new(self):
        """Whether no batch has used the compiled code yet."""
        return self._made_for is None

    def prepare(self):
        """Creates a new train function unless the existing one is still valid."""
        if not self._holds():
            self.step.forget()
            self.run = _make_train_function(self.step)
            self._made_for = None

    def keep(self, callback, original):
        """Keeps the compiled code for the next `fit` of `callback`, after a batch has used it.

        Args:
            callback: the callback, to which a weak reference is kept.
            original: the plain train function of the model, which stores the step and so limits its
                life, or `None`.
        """
        if self._made_for is not None:
            return
        # Record the variables only now, because Keras creates missing ones in the first batch.
        self._made_for = self._step_context()
        # A step that carries a state from batch to batch must start anew in every `fit`.
        if original is not None and not self.step.carries_on:
            kept = getattr(original, _KEPT, None)
            if kept is None:
                # Weak, so that the compiled code goes when the user deletes the callback.
                kept = weakref.WeakKeyDictionary()
                setattr(original, _KEPT, kept)
            kept[callback] = self

    def _holds(self):
        """Returns whether nothing has changed that the code was compiled for."""
        return self._made_for is not None and _are_same(self._made_for, self._step_context())

    def _step_context(self):
        """Returns a list of all objects and settings that the code is compiled for."""
        step, model = self.step, self.step.model
        optimizer, layers = model.optimizer, backend.layers_of(model)
        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
            model.metrics_variables,
        )
        return [
            *_leaves(step.threat_model),
            *_leaves(step.attack),
            *_leaves(step.objective),
            model.jit_compile,
            model.run_eagerly,
            model.steps_per_execution,
            model.loss,
            optimizer,
            learning_rate_of(optimizer),
            # Settings such as `clipnorm` are constants in the compiled code.
            *(one for _, one in sorted(vars(optimizer).items()) if isinstance(one, _PLAIN)),
            keras.distribution.distribution(),
            # The lengths show when a variable moves from one list to the next.
            *(one for some in variables for one in [len(some), *some]),
            *(one for layer in layers for one in (layer, layer.trainable, layer.dtype_policy)),
        ]


def kept_step(callback, model, attack_dtype):
    """Returns the valid `CompiledStep` that an earlier `fit` of `callback` kept, or `None`.

    Args:
        callback: callback with a `threat_model`, an `attack` and an `objective`.
        model: the model, with its plain train function.
        attack_dtype: see `TrainStep`.
    """
    kept = getattr(model.train_function, _KEPT, {}).get(callback)
    if kept is None:
        return None
    step = kept.step
    made_of = (step.threat_model, step.attack, step.objective, step.attack_dtype)
    asked = (callback.threat_model, callback.attack, callback.objective, attack_dtype)
    return kept if _are_same(made_of, asked) and kept._holds() else None


def forget_step(callback, original):
    """Removes the compiled step that was kept for `callback`."""
    getattr(original, _KEPT, {}).pop(callback, None)


def _make_train_function(step):
    """Returns Keras's own train function around our step; the model does not change."""
    model = step.model
    jit_compile, original = model.jit_compile, model.train_function
    if jit_compile and not model.run_eagerly:
        # The step compiles a part of itself: Keras would compile the checks too, which XLA drops.
        step.use_xla()
        model.jit_compile = False
    # Keras builds a train function only around `model.train_step`, so set it for a moment.
    try:
        model.train_step = step.__call__
        model.make_train_function(force=True)
        return model.train_function
    finally:
        del model.train_step
        model.jit_compile = jit_compile
        model.train_function = original


def _leaves(value):
    """Returns a list of a value and all arguments in it, which may change between two fits."""
    if isinstance(value, Configurable):
        arguments = (item for name, item in vars(value).items() if not name.startswith("_"))
        return [value, *_leaves_of_all(arguments)]
    if isinstance(value, dict):
        return [len(value), *_leaves_of_all(value.items())]
    if isinstance(value, (list, tuple)):
        return [len(value), *_leaves_of_all(value)]
    return [value]


def _leaves_of_all(values):
    return [leaf for value in values for leaf in _leaves(value)]


def _are_same(some, others):
    return len(some) == len(others) and all(map(_is_same, some, others))


def _is_same(one, other):
    return one is other or (type(one) is type(other) and type(one) in _PLAIN and one == other)
