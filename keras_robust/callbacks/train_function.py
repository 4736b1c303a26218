"""The train function of a model, ours for one `fit` and the plain one otherwise."""

import keras


class LastCallback(keras.callbacks.Callback):
    """Calls a function before every batch, after the other callbacks had their turn.

    Args:
        owner: the callback whose function it is.
        function: without arguments.
    """

    def __init__(self, owner, function):
        super().__init__()
        self.owner = owner
        self._function = function

    def on_train_batch_begin(self, batch, logs=None):
        self._function()


def install(model, train_function):
    """Puts `train_function` in the place of the plain one, for the `fit` that runs now."""
    train_function.plain = uninstall(model)
    train_function.fit = current_fit(model)
    model.train_function = train_function


def uninstall(model):
    """Puts the plain train function back, if ours is in place, and returns it."""
    model.train_function = getattr(model.train_function, "plain", model.train_function)
    return model.train_function


def current_fit(model):
    """Returns the object that Keras makes anew for every `fit`."""
    return getattr(model, "history", model)


def refuse_other_steps(model):
    """Says so if the model has a train step of its own, or another callback brings one."""
    if getattr(model.train_function, "fit", None) is current_fit(model):
        raise ValueError(
            "One `fit` takes one AdvTrain callback. Received: two of them. To mix objectives use "
            "keras_robust.objectives.Mixed, or write an Objective"
        )
    for name in ("train_step", "make_train_function"):
        own = name in vars(model)
        if own or getattr(type(model), name) is not getattr(keras.Model, name):
            raise ValueError(
                f"AdvTrain brings its own train step, and `{type(model).__name__}` defines "
                f"`{name}`, which would be silently ignored. Move the change into "
                "`compute_loss`, or keep the step and perturb the batch inside it: "
                "`x = keras_robust.attacks.PGD()(self, x, y, threat_model, "
                "seed=self.optimizer.iterations)`. "
                f"Received: a model with a custom `{name}`"
            )
