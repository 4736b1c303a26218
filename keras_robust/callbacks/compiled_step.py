"""An adversarial train step with what was compiled of it, kept from one `fit` to the next."""

import weakref

import keras

from keras_robust import backend
from keras_robust.backend.keras_internals import learning_rate_of
from keras_robust.configurable import Configurable

_KEPT = "_keras_robust_steps"
_PLAIN = (bool, int, float, str)


class CompiledStep:
    """A `TrainStep`, and the train function that Keras makes around it.

    What is compiled of it holds as long as what it was compiled for stays as it was: the model and
    all that `compile` was given, which of its weights are trained, and the attack and the objective
    with their arguments. Ramp and seed are data, and other data are traced beside the first.

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
        """Whether no batch has run through it yet."""
        return self._made_for is None

    def prepare(self):
        """Makes the train function anew, unless the one from before holds."""
        if not self._holds():
            self.step.forget()
            self.run = _make_train_function(self.step)
            self._made_for = None

    def keep(self, callback, plain):
        """Keeps what a batch has run through for the next `fit` of `callback`.

        Args:
            callback: of which a weak reference is kept.
            plain: the plain train function of the model, with which it lives and dies, or `None`.
        """
        if self._made_for is not None:
            return
        # Not before: with the first batch Keras makes the variables that are missing.
        self._made_for = self._step_context()
        if plain is not None and not self.step.carries_on:
            kept = getattr(plain, _KEPT, None)
            if kept is None:
                kept = weakref.WeakKeyDictionary()
                setattr(plain, _KEPT, kept)
            kept[callback] = self

    def _holds(self):
        return self._made_for is not None and _are_same(self._made_for, self._step_context())

    def _step_context(self):
        """Returns a list of what is no data of the compiled step."""
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
            *(one for _, one in sorted(vars(optimizer).items()) if isinstance(one, _PLAIN)),
            keras.distribution.distribution(),
            *(one for some in variables for one in [len(some), *some]),
            *(one for layer in layers for one in (layer, layer.trainable, layer.dtype_policy)),
        ]


def kept_step(callback, model, attack_dtype):
    """Returns the `CompiledStep` that an earlier `fit` of `callback` kept, if it holds, or `None`.

    Args:
        callback: with a `threat_model`, an `attack` and an `objective`.
        model: with its plain train function.
        attack_dtype: as for `TrainStep`.
    """
    kept = getattr(model.train_function, _KEPT, {}).get(callback)
    if kept is None:
        return None
    step = kept.step
    made_of = (step.threat_model, step.attack, step.objective, step.attack_dtype)
    asked = (callback.threat_model, callback.attack, callback.objective, attack_dtype)
    return kept if _are_same(made_of, asked) and kept._holds() else None


def forget_step(callback, plain):
    """Forgets what was kept for `callback`."""
    getattr(plain, _KEPT, {}).pop(callback, None)


def _make_train_function(step):
    """Returns Keras's own train function, made around our step; leaves no trace on the model."""
    model = step.model
    jit_compile, plain = model.jit_compile, model.train_function
    if jit_compile and not model.run_eagerly:
        step.use_xla()
        model.jit_compile = False
    try:
        model.train_step = step.__call__
        model.make_train_function(force=True)
        return model.train_function
    finally:
        del model.train_step
        model.jit_compile = jit_compile
        model.train_function = plain


def _leaves(value):
    """Returns an object with the arguments in it, which may be changed from outside."""
    if isinstance(value, Configurable):
        own = [item for name, item in vars(value).items() if not name.startswith("_")]
        return [value, *(leaf for item in own for leaf in _leaves(item))]
    if isinstance(value, dict):
        return [len(value), *(leaf for pair in value.items() for leaf in _leaves(pair))]
    if isinstance(value, (list, tuple)):
        return [len(value), *(leaf for item in value for leaf in _leaves(item))]
    return [value]


def _are_same(some, others):
    return len(some) == len(others) and all(map(_is_same, some, others))


def _is_same(one, other):
    return one is other or (type(one) is type(other) and type(one) in _PLAIN and one == other)
