import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.callbacks import warm_up
from tests.support import linear_fit

X, Y = linear_fit.data()
# What Keras says at the end of the first epoch, when it knows the length.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data")
NAME = "the length of the data is not known"


def _warm_up(steps=3, epochs=5, optimizer=None, **arguments):
    callback = kr.AdvTrain(kr.Linf(linear_fit.EPSILON), attack="fgsm", **arguments)
    callback.set_params({"steps": steps, "epochs": epochs, "verbose": 0})
    callback.set_model(linear_fit.make_model(optimizer=optimizer))
    return warm_up.WarmUp(callback)


@pytest.mark.parametrize(
    ("arguments", "epsilon_warmup"),
    [
        ({}, (0, 3)),
        ({"steps": None}, (0, 500)),
        ({"warmup": 7}, (0, 7)),
        ({"steps": None, "warmup": 7}, (0, 7)),
        ({"steps": None, "warmup": 0}, (0, 0)),
        ({"warmup": "40%", "clean_epochs": 2}, (6, 6)),
        ({"objective": kr.objectives.Free(num_replays=4)}, (0, 12)),
        ({"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)}, (0, 1)),
    ],
)
def test_the_ramp_counts_optimizer_steps(arguments, epsilon_warmup):
    assert _warm_up(**arguments).epsilon_warmup == epsilon_warmup


def test_a_schedule_has_no_warm_up_of_its_own():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.1)
    callback = kr.AdvTrain(kr.Linf(schedule))
    callback.set_params({"steps": None, "epochs": 2})
    found = warm_up.WarmUp(callback)
    assert found.epsilon_warmup == (0, 0)
    assert found.note() is None and found.shortfall(0) is None


@pytest.mark.parametrize("arguments", [{"warmup": "20%"}, {"clean_epochs": 1}], ids=str)
def test_a_percentage_needs_data_of_known_length(arguments):
    with pytest.raises(ValueError, match=f"{NAME}. Pass `steps_per_epoch`.*Received: warmup="):
        _warm_up(steps=None, **arguments)


def _fit_unknown(epochs, callbacks, verbose=0):
    data = linear_fit.dataset().filter(lambda x, y: True)
    model = linear_fit.make_model()
    model.fit(data, epochs=epochs, shuffle=False, verbose=verbose, callbacks=callbacks)
    return linear_fit.weights(model)


def _default():
    return kr.AdvTrain(kr.Linf(linear_fit.EPSILON), attack="fgsm")


def test_data_of_unknown_length_train_by_default_and_equal_numpy(monkeypatch, capsys):
    monkeypatch.setattr(warm_up, "DEFAULT_STEPS", 4)
    found = _fit_unknown(2, [_default()], verbose=2)
    epsilon_warmup = lambda step: linear_fit.EPSILON * min(1.0, (step + 1) / 4)  # noqa: E731
    np.testing.assert_allclose(
        found, linear_fit.expected(X, Y, epochs=2, epsilon=epsilon_warmup)[0], 1e-4
    )
    assert f"AdvTrain: {NAME}. Epsilon grows over the first 4" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_a_training_shorter_than_the_warm_up_gives_a_warning():
    with pytest.warns(
        UserWarning, match="never reached the full.*Received: 6 optim.*was 1% of its"
    ) as caught:
        _fit_unknown(2, [_default()])
    assert sum("never reached" in str(one.message) for one in caught) == 1


@pytest.mark.exhaustive
def test_data_of_unknown_length_resume_to_the_same_numbers(monkeypatch, tmp_path):
    monkeypatch.setattr(warm_up, "DEFAULT_STEPS", 8)
    whole = _fit_unknown(4, [_default()])
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731

    def kill(epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("killed")

    killer = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
    with pytest.raises(RuntimeError, match="killed"):
        _fit_unknown(4, [_default(), backup(), killer])
    np.testing.assert_array_equal(_fit_unknown(4, [_default(), backup()]), whole)
