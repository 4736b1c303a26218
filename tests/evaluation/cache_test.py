import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.cache import AttackCache
from tests.support import told


def _cache(network=told.model, x=told.X, y=told.Y, **arguments):
    arguments = {"batch_size": 3, "seed": 0, "num_steps": 2, **arguments}
    return AttackCache(network, x, y, told.BALL, np.asarray(told.model(x)), **arguments)


@pytest.mark.exhaustive
def test_every_attack_runs_once_in_every_ball():
    cache, runs = _cache(), []

    class Counting(kr.attacks.FGSM):
        def run(self, *arguments, **others):
            runs.append(repr(self))
            return super().run(*arguments, **others)

    first = cache.found(Counting())
    assert cache.found(Counting()) is first
    assert cache.found(Counting(), told.BALL) is first
    assert cache.found(Counting(), kr.Linf(0.1)) is not first
    assert cache.found(Counting(loss="margin")) is not first
    assert len(runs) == 3


def test_accuracy_counts_clean_mistakes_as_wrong():
    cache = _cache()
    np.testing.assert_array_equal(cache.correct, [1, 1, 1, 1, 0])
    # The attack reports success on all examples; the fifth is a clean mistake.
    assert cache.accuracy(told.Fixed([0.0] * 5, claim=False)) == 0.8
    assert cache.accuracy(told.Fixed([0.0] * 5)) == 0.0
    assert cache.accuracy(kr.attacks.FGSM()) == 0.4
    assert cache.accuracy(kr.attacks.FGSM(), kr.Linf(0.22)) == pytest.approx(0.6)


def test_steps():
    cache = _cache(num_steps=7)
    assert repr(cache.pgd("margin")) == repr(kr.attacks.PGD(num_steps=7, loss="margin"))
    assert cache.pgd("margin", times=2).num_steps == 14
    assert AttackCache(None, told.X, told.Y, None, told.X, batch_size=1, seed=0).num_steps == 40


@pytest.mark.parametrize("num_classes,targets,loss", [(2, 1, "margin"), (5, 3, "dlr")])
def test_white_box_runs_three_attacks(num_classes, targets, loss, monkeypatch):
    logits = np.zeros((3, num_classes), "float32")
    labels = np.zeros(3, "int64")
    cache = AttackCache(None, logits, labels, told.BALL, logits, batch_size=3, seed=0)
    seen = []

    def found(attack):
        seen.append(attack)
        success = np.eye(3, dtype="bool")[len(seen) - 1] & np.array([1, 1, 0], "bool")
        return kr.attacks.AttackResult(None, None, success, None, None)

    monkeypatch.setattr(cache, "found", found)
    np.testing.assert_array_equal(cache.white_box(), [0, 0, 1])
    assert [type(attack).__name__ for attack in seen] == ["PGD", "PGD", "TargetedAPGD"]
    assert [attack.loss for attack in seen] == ["cross_entropy", "margin", loss]
    assert seen[2].num_targets == targets and {attack.num_steps for attack in seen} == {40}


def test_one_perturbation_is_that_of_one_attack(monkeypatch):
    ball = kr.threat_models.Universal(told.BALL)
    cache = AttackCache(
        None, told.X, told.Y, ball, np.asarray(told.model(told.X)), batch_size=3, seed=0
    )
    success = {"cross_entropy": [1, 0, 0, 0, 0], "margin": [0, 1, 1, 0, 0]}

    def found(attack, ball=None):
        return kr.attacks.AttackResult(
            None, None, np.array(success[attack.loss], "bool"), None, None
        )

    monkeypatch.setattr(cache, "found", found)
    np.testing.assert_array_equal(cache.white_box(), [1, 0, 0, 1, 0])


@pytest.mark.exhaustive
def test_the_seed_changes_the_result():
    found = [
        _cache(seed=seed).found(kr.attacks.PGD(num_steps=1, step_size=1e-6)) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0].x_adv, found[1].x_adv)
    assert np.any(found[0].x_adv != found[2].x_adv)
