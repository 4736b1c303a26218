"""Models that take whole numbers, and quantised ones: the true reason is told."""

import keras
import numpy as np
import pytest

import keras_robust as kr

BALL = kr.Linf(8, bounds=(0, 255))
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).integers(0, 256, size=(16, 4)).astype("uint8")
Y = np.arange(16) % 2


def model(dtype):
    layers = [keras.Input((4,), dtype=dtype), keras.layers.Rescaling(1 / 255)]
    built = keras.Sequential([*layers, keras.layers.Dense(2)])
    built.compile("sgd", LOSS)
    return built


def train(objective):
    training = kr.AdvTrain(BALL, objective=objective, warmup=0)
    model("uint8").fit(X, Y, verbose=0, callbacks=[training])


@pytest.mark.parametrize(
    "call",
    [
        lambda: train("adversarial"),
        lambda: train("input_gradient"),
        lambda: train("grad_align"),
        lambda: kr.evaluate(model("uint8"), (X, Y), BALL, attacks="pgd"),
        lambda: kr.attacks.FGSM()(model("uint8"), X.astype("float32"), Y, BALL),
        lambda: kr.evaluate(model("uint8"), (X, Y), BALL, attacks="black_box"),
    ],
    ids=["AdvTrain", "InputGradient", "GradAlign", "evaluate", "attack", "black box"],
)
def test_integer_inputs_are_named(call):
    with pytest.raises(ValueError, match="takes whole numbers.*Received: .*of dtype .*uint8"):
        call()


def test_floats_in_the_same_range_are_attacked():
    x = X.astype("float32")
    x_adv = kr.attacks.FGSM()(model("float32"), x, Y, BALL)
    assert np.abs(x_adv - x).max() == 8.0


@pytest.mark.parametrize("method", ["interval", "lipschitz"])
def test_quantised_layers_are_named(method):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    network.compile("sgd", LOSS)
    network.layers[-1].quantize("int8")
    x = X.astype("float32") / 255.0
    with pytest.raises(ValueError, match="quantized layer.*Received: layer 'dense.*to int8"):
        kr.certify(network, (x, Y), method)


def test_a_sanity_check_says_so_and_goes_on():
    report = kr.sanity_check(model("uint8"), (X, Y), BALL)
    assert report["gradients"].verdict == "failed"
