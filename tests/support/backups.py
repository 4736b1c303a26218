"""Trainings with a backup, from the same first weights on the same data."""

import keras

import keras_robust as kr
from tests.support import linear_fit

X, Y = linear_fit.data()


def make_model(make_layers=list, **arguments):
    keras.utils.set_random_seed(0)
    return linear_fit.make_model(make_layers(), **arguments)


def fit(model, path, epochs=4, stop=None, callbacks=(), **arguments):
    """Fits with a backup, and stops at the beginning of an epoch."""

    def fail(epoch, logs):
        if epoch == stop:
            raise RuntimeError("stopped")

    backup = [] if path is None else [kr.callbacks.AtomicBackup(path, **arguments)]
    stopper = keras.callbacks.LambdaCallback(on_epoch_begin=fail)
    return model.fit(
        X,
        Y,
        batch_size=8,
        shuffle=False,
        epochs=epochs,
        verbose=0,
        callbacks=[*backup, stopper, *callbacks],
    )
