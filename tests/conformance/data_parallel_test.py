"""Training on several devices and in several processes with `keras.distribution`."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import processes
from tests.support import refusals

pytestmark = pytest.mark.skipif(not backends.IS_JAX, reason="keras.distribution needs JAX")

_OWN_NETWORKS = (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"])


def _fit(objective):
    x, y = linear_fit.data(24)
    norm = keras.layers.BatchNormalization(momentum=0.5)
    model = linear_fit.make_model([norm])
    attack = kr.attacks.PGD(num_steps=2)
    callback = linear_fit.adv_train(attack=attack, objective=objective)
    weight = np.linspace(0.5, 1.5, 24, dtype="float32")
    history = linear_fit.fit(model, callback, x, y, epochs=2, sample_weight=weight).history
    return model, history


@pytest.fixture
def two_devices():
    devices = keras.distribution.list_devices()[:2]
    assert len(devices) == 2
    distribution = keras.distribution.DataParallel(devices=devices)
    yield distribution
    keras.distribution.set_distribution(None)


@pytest.mark.parametrize("objective", ["adversarial", "trades", "awp", "free"])
def test_two_devices_reach_the_weights_of_one(objective, two_devices):
    one, logs = _fit(objective)
    keras.distribution.set_distribution(two_devices)
    two, found = _fit(objective)
    assert len(two.layers[-1].kernel.value.sharding.device_set) == 2
    for have, want in zip(two.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    for key, values in logs.items():
        assert found[key] == pytest.approx(values, rel=1e-4)


def test_equal_examples_on_two_devices_get_noise_of_their_own(two_devices):
    seen = []

    class Spy(kr.objectives.Adversarial):
        def perturb(self, attack, classifier, batch):
            found = super().perturb(attack, classifier, batch)
            backends.observe(lambda x: seen.append(np.array(x)), found.x_adv)
            return found

    keras.distribution.set_distribution(two_devices)
    attack = kr.attacks.RandomNoise(num_samples=1)
    callback = kr.AdvTrain(kr.Linf(0.1), attack=attack, objective=Spy(), warmup=0)
    x = np.full((4, 4), 0.5, "float32")
    linear_fit.fit(linear_fit.make_model(), callback, x, np.zeros(4, "int32"), batch_size=4)
    noisy = seen[0]
    assert noisy.shape == (4, 4)
    assert all(np.abs(noisy[i] - noisy[j]).min() > 1e-5 for i in range(4) for j in range(i))
    assert np.abs(noisy - 0.5).max() <= 0.1 + 1e-6


def test_bad_inputs_leave_the_weights_of_all_devices(two_devices):
    keras.distribution.set_distribution(two_devices)
    model = linear_fit.make_model()
    x, y = linear_fit.data(16)
    x[13, 1] = np.nan
    after_one = linear_fit.make_model()
    linear_fit.fit(after_one, linear_fit.adv_train(), x[:8], y[:8])
    with pytest.raises(ValueError, match="must be finite.*with 1 NaN"):
        linear_fit.fit(model, linear_fit.adv_train(), x, y)
    np.testing.assert_array_equal(linear_fit.weights(model), linear_fit.weights(after_one))


def test_a_batch_that_the_devices_do_not_divide_is_told(two_devices):
    keras.distribution.set_distribution(two_devices)
    x, y = linear_fit.data(9)
    message = (
        "the number of devices must divide the size of every batch.*"
        "Received: array axis 0 is partitioned 2 times.* is 1"
    )
    with refusals.assert_refused(message):
        linear_fit.fit(linear_fit.make_model(), linear_fit.adv_train(), x, y, batch_size=8)


@pytest.mark.exhaustive
def test_two_processes_reach_the_weights_of_one_also_after_a_kill(tmp_path):
    wrapper = next((one for one in _OWN_NETWORKS if _works(one)), None)
    if wrapper is None:
        pytest.skip("no network of its own can be made here, and what joins processes listens")
    command = [*wrapper, sys.executable, "-m", "tests.support.processes", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    found = [json.loads(line) for line in run.stdout.strip().splitlines()]
    expected = processes.train()
    whole, again = found[: processes.COUNT], found[processes.COUNT :]
    assert len(whole) == len(again) == processes.COUNT
    assert list(tmp_path.iterdir()) == []
    for process, other in zip(whole, again, strict=True):
        assert other["weights"] == process["weights"]
        assert other["loss"] == process["loss"][1:]
        assert process["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        for have, want in zip(process["weights"], expected["weights"], strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def _works(wrapper):
    if shutil.which(wrapper[0]) is None:
        return False
    return subprocess.run([*wrapper, "true"], capture_output=True).returncode == 0
