"""When adversarial training begins, and how its radius grows."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import devices
from tests.support import linear_fit
from tests.support import refusals
from tests.support import small_models
from tests.support import tiers

X, Y = linear_fit.data()


def test_warmup_grows_epsilon_with_the_optimizer_steps():
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(warmup=4), epochs=2)
    epsilon_warmup = lambda step: linear_fit.EPSILON * min(1.0, (step + 1) / 4)  # noqa: E731
    weights, _ = linear_fit.expected(X, Y, epochs=2, epsilon=epsilon_warmup)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_warmup_as_a_percentage_of_the_planned_steps():
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(warmup="50%"), epochs=4)
    epsilon_warmup = lambda step: linear_fit.EPSILON * min(1.0, (step + 1) / 6)  # noqa: E731
    weights, _ = linear_fit.expected(X, Y, epochs=4, epsilon=epsilon_warmup)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_warmup_is_on_by_default_for_a_fifth_of_the_steps():
    model = linear_fit.make_model()
    linear_fit.fit(model, kr.AdvTrain(kr.Linf(linear_fit.EPSILON), attack="fgsm"), epochs=5)
    epsilon_warmup = lambda step: linear_fit.EPSILON * min(1.0, (step + 1) / 3)  # noqa: E731
    weights, _ = linear_fit.expected(X, Y, epochs=5, epsilon=epsilon_warmup)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_a_second_fit_goes_on_where_the_warmup_was():
    model = linear_fit.make_model()
    for _ in range(2):
        linear_fit.fit(model, linear_fit.adv_train(warmup=5))
    epsilon_warmup = lambda step: linear_fit.EPSILON * min(1.0, (step + 1) / 5)  # noqa: E731
    weights, _ = linear_fit.expected(X, Y, epochs=2, epsilon=epsilon_warmup)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_a_scheduled_epsilon_is_read_at_every_step_without_warmup():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.02, 0.1, 0.05])
    model = linear_fit.make_model()
    linear_fit.fit(model, kr.AdvTrain(kr.Linf(schedule), attack="fgsm"), epochs=2)
    values = [0.02, 0.02, 0.1, 0.1, 0.05, 0.05]
    weights, _ = linear_fit.expected(X, Y, epochs=2, epsilon=values.__getitem__)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def _assert_same(one, other):
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


def _state_after(epochs, callbacks):
    """The state of a model with BatchNorm and Dropout after each epoch, and all logs."""
    model = small_models.convolution()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    x, y = small_models.images(model)
    states, logs = [], []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, values=None):
            states.append([np.array(variable) for variable in self.model.variables])
            logs.append(dict(values))

    keras.utils.set_random_seed(5)
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=[*callbacks, Keep()])
    return states, logs


def test_clean_epochs_are_plain_bit_for_bit():
    plain_states, plain_logs = _state_after(3, [])
    states, logs = _state_after(3, [linear_fit.adv_train(clean_epochs=2)])
    for epoch in range(2):
        _assert_same(states[epoch], plain_states[epoch])
        assert logs[epoch] == plain_logs[epoch]
        assert set(logs[epoch]) == {"accuracy", "loss"}
    assert np.abs(states[2][0] - plain_states[2][0]).max() > 1e-4
    assert set(logs[2]) == {"accuracy", "adv_accuracy", "loss"}


@pytest.mark.exhaustive
def test_clean_epochs_may_be_all_there_are():
    plain_states, plain_logs = _state_after(2, [])
    states, logs = _state_after(2, [linear_fit.adv_train(clean_epochs=5)])
    _assert_same(states[1], plain_states[1])
    assert logs == plain_logs


def _after_clean(count, warmup=1):
    """Epsilon at every step, with a ramp that starts after `count` clean steps."""
    return lambda step: linear_fit.EPSILON * min(1.0, max(0, step + 1 - count) / warmup)


@pytest.mark.exhaustive
@tiers.parametrize(
    "arguments",
    [{}, {"steps_per_execution": 3}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=str,
)
def test_adversarial_epochs_follow_the_clean_ones(arguments):
    model = linear_fit.make_model(**arguments)
    history = linear_fit.fit(model, linear_fit.adv_train(clean_epochs=2), epochs=4).history
    weights, logs = linear_fit.expected(X, Y, epochs=4, epsilon=_after_clean(6))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
    for name in ("accuracy", "loss"):
        expected = [log[name] for log in logs]
        np.testing.assert_allclose(history[name], expected, rtol=1e-5, err_msg=name)
    expected = [log["adv_accuracy"] for log in logs[2:]]
    np.testing.assert_allclose(history["adv_accuracy"], expected, rtol=1e-5)


def test_the_warmup_starts_after_the_clean_epochs():
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(clean_epochs=1, warmup=4), epochs=3)
    weights, _ = linear_fit.expected(X, Y, epochs=3, epsilon=_after_clean(3, 4))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_a_warmup_in_percent_is_one_of_all_planned_steps():
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(clean_epochs=1, warmup="50%"), epochs=4)
    weights, _ = linear_fit.expected(X, Y, epochs=4, epsilon=_after_clean(3, 6))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_a_schedule_of_epsilon_counts_the_clean_steps_too():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.2, 0.05])
    model = linear_fit.make_model()
    linear_fit.fit(model, kr.AdvTrain(kr.Linf(schedule), attack="fgsm", clean_epochs=1), epochs=2)
    values = [0.0, 0.0, 0.0, 0.2, 0.05, 0.05]
    weights, _ = linear_fit.expected(X, Y, epochs=2, epsilon=values.__getitem__)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
@tiers.parametrize("again", [False, True])
def test_a_second_fit_goes_on_with_the_clean_epochs_that_are_left(again):
    model, callback = linear_fit.make_model(), linear_fit.adv_train(clean_epochs=2)
    found = []
    for _ in range(3):
        history = linear_fit.fit(model, callback if again else linear_fit.adv_train(clean_epochs=2))
        found.append("adv_accuracy" in history.history)
    assert found == [False, False, True]
    weights, _ = linear_fit.expected(X, Y, epochs=3, epsilon=_after_clean(6))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_clean_epochs_on_several_devices():
    with devices.mirrored(2).scope():
        model = linear_fit.make_model()
    history = linear_fit.fit(model, linear_fit.adv_train(clean_epochs=1), X[:16], Y[:16], epochs=2)
    weights, _ = linear_fit.expected(X[:16], Y[:16], epochs=2, epsilon=_after_clean(2))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
    assert len(history.history["adv_accuracy"]) == 1


@pytest.mark.exhaustive
@tiers.parametrize("size,clean,attacked", [(32, 1, 8), (24, 1, 6), (24, 2, 3), (16, 2, 2)])
def test_clean_epochs_under_accumulation(size, clean, attacked):
    # Two batches make an optimizer step, so that an odd epoch ends in the middle of one.
    epochs = []

    class Spy(kr.objectives.Adversarial):
        def perturb(self, attack, classifier, batch):
            epochs.append(1)
            return super().perturb(attack, classifier, batch)

    x, y = linear_fit.data(size)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = linear_fit.make_model(optimizer=optimizer, run_eagerly=True)
    linear_fit.fit(model, linear_fit.adv_train(clean_epochs=clean, objective=Spy()), x, y, epochs=3)
    assert len(epochs) == attacked


@pytest.mark.exhaustive
def test_clean_epochs_need_the_length_of_the_data():
    unknown = linear_fit.dataset().filter(lambda x, y: True)
    model = linear_fit.make_model()
    callback = linear_fit.adv_train(clean_epochs=1)
    message = r"length of the data is not known.*Received: warmup=0, clean_epochs=1 and data of unk"
    with pytest.raises(ValueError, match=message):
        linear_fit.fit(model, callback, unknown, None, batch_size=None)
    linear_fit.fit(
        model, callback, unknown.repeat(), None, batch_size=None, steps_per_epoch=3, epochs=2
    )
    weights, _ = linear_fit.expected(X, Y, epochs=2, epsilon=_after_clean(3))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_the_model_is_plain_after_an_exception_in_a_clean_epoch():
    def fail(epoch, logs):
        raise RuntimeError("no")

    model, plain = linear_fit.make_model(), linear_fit.make_model()
    linear_fit.fit(plain, keras.callbacks.Callback(), epochs=2)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=fail)
    with pytest.raises(RuntimeError):
        model.fit(
            X,
            Y,
            batch_size=8,
            shuffle=False,
            verbose=0,
            callbacks=[linear_fit.adv_train(clean_epochs=1), callback],
        )
    assert not hasattr(model.train_function, "plain")
    linear_fit.fit(model, keras.callbacks.Callback())
    np.testing.assert_array_equal(linear_fit.weights(model), linear_fit.weights(plain))


@pytest.mark.parametrize("value", [-1, 1.5, "2", None, True])
def test_an_unreadable_number_of_clean_epochs_is_refused(value):
    message = f"Argument `clean_epochs` must be an int >= 0.*Received: clean_epochs={value!r}"
    refusals.assert_argument_refused(kr.AdvTrain, message, clean_epochs=value)
