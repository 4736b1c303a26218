"""A backup goes on in the training that it is of, and in no other."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backups
from tests.support import refusals
from tests.support import tiers


class _Double(kr.objectives.Adversarial):
    """An objective with arguments that no file holds."""

    def __init__(self, attack=None, function=None):
        super().__init__()
        self.attack = attack
        self.function = function


OTHER_TRAININGS = {
    "'epsilon': 0.2": {"threat_model": kr.Linf(0.2)},
    "'decay_steps'": {"threat_model": kr.Linf(keras.optimizers.schedules.CosineDecay(0.1, 4))},
    "'class': 'L2'": {"threat_model": kr.L2(0.1)},
    "'num_steps': 1": {"attack": kr.attacks.PGD(num_steps=2)},
    "'class': 'PGD'": {"attack": kr.attacks.FGSM()},
    "objective={'class': 'Adversarial'": {"objective": "trades"},
    "warmup=0, not 20%": {"warmup": "20%"},
    "seed=0, not 1": {"seed": 1},
    "attack_dtype=None, not bfloat16": {"attack_dtype": "bfloat16"},
}


def _adv_train(**changes):
    settings = {"threat_model": kr.Linf(0.1), "attack": kr.attacks.PGD(num_steps=1), "warmup": 0}
    return kr.AdvTrain(**{**settings, **changes})


@tiers.parametrize("named", OTHER_TRAININGS)
def test_the_backup_of_another_training_is_refused_and_left_alone(tmp_path, named):
    path = tmp_path / "backup.npz"
    backups.fit(
        backups.make_model(), path, epochs=1, callbacks=[_adv_train()], delete_checkpoint=False
    )
    before = path.read_bytes()
    model, message = backups.make_model(), "belongs to another training.*Received: .*with "
    with refusals.assert_refused(message, model, tmp_path) as caught:
        backups.fit(model, path, callbacks=[_adv_train(**OTHER_TRAININGS[named])])
    assert named in str(caught.value)
    assert path.read_bytes() == before


@tiers.parametrize("first", [True, False])
def test_plain_and_adversarial_training_are_told_apart(tmp_path, first):
    path = tmp_path / "backup.npz"
    callbacks = {True: [_adv_train()], False: []}
    backups.fit(
        backups.make_model(), path, epochs=1, callbacks=callbacks[first], delete_checkpoint=False
    )
    message = "with AdvTrain, which" if first else "without AdvTrain"
    model = backups.make_model()
    message = f"belongs to another training.*Received: .*{message}"
    with refusals.assert_refused(message, model, tmp_path):
        backups.fit(model, path, callbacks=callbacks[not first])


class _Bare(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule with nothing but what a schedule needs."""

    def __call__(self, step):
        return 0.1


class _Own(kr.AdvTrain):
    """A callback with an argument of its own."""

    def __init__(self, *arguments, power, **others):
        super().__init__(*arguments, **others)
        self.power = power


SAME_TRAININGS = {
    "defaults": lambda: kr.AdvTrain(),
    "fraction": lambda: kr.AdvTrain("linf", warmup="20%"),
    "radius and bounds of arrays": lambda: kr.AdvTrain(
        kr.Linf(np.float32(0.1), bounds=(np.zeros(4), np.ones(4, "float32")))
    ),
    "tensor": lambda: kr.AdvTrain(kr.L2(0.5).scaled(keras.ops.convert_to_tensor(0.3))),
    "schedule": lambda: kr.AdvTrain(kr.L1(keras.optimizers.schedules.CosineDecay(0.1, 4))),
    "bare schedule": lambda: kr.AdvTrain(kr.Linf(_Bare())),
    "wrapped": lambda: kr.AdvTrain(objective=kr.objectives.AWP(0.01, "trades")),
    "teacher": lambda: kr.AdvTrain(objective=kr.objectives.ARD(backups.make_model())),
    "own": lambda: _Own(kr.Linf(0.1), power=3),
}


@tiers.parametrize("name", SAME_TRAININGS)
def test_the_backup_of_the_same_training_is_taken_up(tmp_path, name):
    path = tmp_path / "backup.npz"
    for epochs in (1, 2):
        callbacks = [SAME_TRAININGS[name]()]
        history = backups.fit(
            backups.make_model(), path, epochs, callbacks=callbacks, delete_checkpoint=False
        )
    assert history.epoch == [1]


@pytest.mark.exhaustive
def test_arguments_of_a_subclass_and_radii_in_tensors_are_told_apart(tmp_path):
    path = tmp_path / "backup.npz"
    pairs = [
        ([_Own(kr.Linf(0.1), power=3)], [_Own(kr.Linf(0.1), power=1)], "power=3, not 1"),
        ([_Own(kr.Linf(0.1), power=3)], [kr.AdvTrain(kr.Linf(0.1))], "class=_Own, not AdvTrain"),
        (
            [kr.AdvTrain(kr.Linf(0.1).scaled(1.0))],
            [kr.AdvTrain(kr.Linf(0.1).scaled(2.0))],
            "'epsilon': 0.20000000298023224",
        ),
    ]
    for first, second, message in pairs:
        backups.fit(backups.make_model(), path, epochs=1, callbacks=first, delete_checkpoint=False)
        with refusals.assert_refused(f"belongs to another training.*{message}", folder=tmp_path):
            backups.fit(backups.make_model(), path, callbacks=second)
        path.unlink()


def test_objectives_with_functions_go_on(tmp_path):
    path = tmp_path / "backup.npz"
    for epochs in (1, 2):
        objective = _Double(attack=kr.attacks.FGSM(), function=lambda: None)
        callbacks = [_adv_train(objective=objective)]
        history = backups.fit(
            backups.make_model(), path, epochs, callbacks=callbacks, delete_checkpoint=False
        )
    assert history.epoch == [1]
