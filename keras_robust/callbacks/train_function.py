"""Installs an adversarial train function in a model for one `fit`, and removes it again."""

import keras


class LastCallback(keras.callbacks.Callback):
    """Calls a function before every batch, after all other callbacks.

    Args:
        owner: the callback that the function belongs to.
        function: function without arguments.
    """

    def __init__(self, owner, function):
        super().__init__()
        self.owner = owner
        self._function = function

    def on_train_batch_begin(self, batch, logs=None):
        self._function()


def install(model, train_function):
    """Replaces the plain train function by `train_function` during the current `fit`."""
    train_function.replaced = uninstall(model)
    train_function.fit = current_fit(model)
    model.train_function = train_function


def uninstall(model):
    """Restores the plain train function if another one is installed, and returns it."""
    model.train_function = getattr(model.train_function, "replaced", model.train_function)
    return model.train_function


def current_fit(model):
    """Returns the `History` object of the model, which Keras creates anew for every `fit`."""
    return getattr(model, "history", model)


def refuse_other_steps(model):
    """Raises ValueError for a model, or another callback, with its own train step."""
    if getattr(model.train_function, "fit", None) is current_fit(model):
        raise ValueError(
            "One `fit` takes one AdvTrain callback. To mix objectives, use "
            "keras_robust.objectives.Mixed, or write an Objective. Received: two AdvTrain "
            "callbacks"
        )
    for name in ("train_step", "make_train_function"):
        own = name in vars(model)
        if own or getattr(type(model), name) is not getattr(keras.Model, name):
            raise ValueError(
                f"AdvTrain has its own train step, and `{type(model).__name__}` defines `{name}`, "
                "which would be silently ignored. Move the change into `compute_loss`, or keep "
                "the step and perturb the batch inside it: `x = keras_robust.attacks.PGD()(self, "
                "x, y, threat_model, seed=self.optimizer.iterations)`. Received: a model with a "
                f"custom `{name}`"
            )
