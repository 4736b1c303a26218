import json
import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import training
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight
from tests.support import backends
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

# 0.25 for optimizer steps 0 and 1, then 1.
SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.25, 1.0])


class Weighted(kr.objectives.Objective):
    def __init__(self, first=1.0, second="b"):
        self.first = first
        self.second = second


def test_perturb_is_what_the_attack_finds():
    class Asked(kr.attacks.Attack):
        def perturb(self, *request):
            return request

    batch = training.Batch("x", "y", "weight", "threat model", "iteration", "seed", "delta")
    found = kr.objectives.Objective().perturb(Asked(), "classifier", batch)
    assert found == ("classifier", "x", "y", "threat model", "seed")


def test_the_base_has_no_loss():
    with pytest.raises(NotImplementedError):
        kr.objectives.Objective().loss(None, None)


def test_config_and_repr_come_from_the_constructor():
    objective = Weighted(second="c")
    assert objective.get_config() == {"first": 1.0, "second": "c"}
    assert repr(objective) == "Weighted(first=1.0, second='c')"
    assert Weighted.from_config(objective.get_config()).get_config() == objective.get_config()
    assert kr.objectives.Objective().get_config() == {}


@pytest.mark.parametrize(
    "identifier,expected",
    [
        ("adversarial", kr.objectives.Adversarial),
        ("TRADES", kr.objectives.TRADES),
        ("clean_logit_pairing", kr.objectives.CleanLogitPairing),
        (kr.objectives.Mixed, kr.objectives.Mixed),
        (keras.saving.serialize_keras_object(kr.objectives.TRADES()), kr.objectives.TRADES),
    ],
)
def test_get(identifier, expected):
    assert type(kr.objectives.get(identifier)) is expected


def test_get_keeps_an_instance():
    objective = kr.objectives.TRADES(beta=1.5)
    assert kr.objectives.get(objective) is objective


@pytest.mark.parametrize("identifier", ["pgd", None, kr.attacks.PGD()])
def test_get_unknown(identifier):
    known = ", ".join(sorted(repr(cls.__name__.lower()) for cls in kr.objectives.ALL))
    message = f"Unknown objective. Expected one of {known}, or an object of Objective. Received: "
    with pytest.raises(ValueError, match=message):
        kr.objectives.get(identifier)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 2])
def test_check_weight_returns_the_value(value):
    assert check_weight("name", value, maximum=2.0) is value


@pytest.mark.parametrize("value", [-1e-9, 2.1, float("nan"), "1", None, [1.0]])
def test_check_weight_says_what_it_received(value):
    message = re.escape(
        "Argument `name` must be a number from 0 to 2.0, or a LearningRateSchedule. "
        f"Received: name={value!r}"
    )
    with refusals.assert_refused(message):
        check_weight("name", value, maximum=2.0)


def test_check_weight_takes_a_schedule_for_what_it_is():
    assert check_weight("name", SCHEDULE, maximum=0.1) is SCHEDULE


def test_at_reads_a_schedule_at_the_optimizer_step_of_the_batch():
    clean, _ = forward_passes.forward_passes(forward_passes.model(), iteration=1)
    later, _ = forward_passes.forward_passes(forward_passes.model(), iteration=2)
    assert float(at(SCHEDULE, clean)) == 0.25
    assert float(at(SCHEDULE, later)) == 1.0
    assert at(3, later) == 3


class Tenfold(kr.objectives.Regularised):
    """Adds ten times the mean logit, so that its weight is visible in the loss."""

    def penalty(self, clean, adversarial):
        return 10.0 * keras.ops.mean(adversarial.logits**2, axis=-1)


WEIGHTED = {
    "alpha": kr.objectives.Mixed,
    "beta": kr.objectives.TRADES,
    "pairing": kr.objectives.LogitPairing,
    "clean pairing": lambda weight: kr.objectives.CleanLogitPairing(weight, noise_stddev=0.1),
    "weight": lambda weight: Tenfold(weight, "adversarial"),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_schedule_is_its_value_at_every_step(name):
    for iteration, value in ((0, 0.25), (1, 0.25), (2, 1.0)):
        losses = [
            float(
                WEIGHTED[name](weight).loss(
                    *forward_passes.forward_passes(forward_passes.model(), iteration=step)
                )
            )
            for weight, step in ((SCHEDULE, iteration), (value, 7))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@tiers.parametrize("name", WEIGHTED)
@pytest.mark.filterwarnings("ignore:Every input gradient")
def test_a_schedule_is_data_in_one_graph(name):
    x, y = linear_fit.data(16)
    losses = {}
    for key, weight in (("schedule", SCHEDULE), ("first", 0.25), ("second", 1.0)):
        objective, traces, seen = WEIGHTED[name](weight), [], []
        loss = objective.loss
        objective.loss = lambda *both, loss=loss, traces=traces: traces.append(1) or loss(*both)
        # With learning rate 0 only the schedule changes from step to step.
        model = linear_fit.make_model(optimizer=keras.optimizers.SGD(0.0))
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, seen=seen: seen.append(logs["loss"])
        )
        attack = kr.attacks.BIM(num_steps=1, loss="cross_entropy")
        callback = linear_fit.adv_train(attack=attack, objective=objective, seed=1)
        model.fit(
            x, y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[callback, keep]
        )
        assert backends.was_traced_once(len(traces))
        losses[key] = seen
    if name == "clean pairing":
        # The objective draws new noise at every step.
        expected = [*losses["first"][:2], losses["second"][2]]
        np.testing.assert_allclose(losses["schedule"], expected, rtol=1e-5)
        return
    assert losses["first"][0] != pytest.approx(losses["second"][0], rel=1e-3)
    expected = [losses["first"][0]] * 2 + [losses["second"][0]]
    np.testing.assert_allclose(losses["schedule"], expected, rtol=1e-5)


def test_config_holds_schedules_and_nested_objectives():
    objective = kr.objectives.AWP(SCHEDULE, kr.objectives.Mixed(SCHEDULE))
    config = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == objective.get_config()
    assert isinstance(again.objective, kr.objectives.Mixed)
    assert [float(again.gamma(step)) for step in (1, 2)] == [0.25, 1.0]
    assert [float(again.objective.alpha(step)) for step in (1, 2)] == [0.25, 1.0]
    # Only plain values, as JSON has them.
    assert again.get_config() == json.loads(json.dumps(objective.get_config()))


def test_a_callback_config_holds_them_too():
    callback = kr.AdvTrain(objective=kr.objectives.AWP(0.1, kr.objectives.TRADES(SCHEDULE)))
    again = kr.AdvTrain.from_config(json.loads(json.dumps(callback.get_config())))
    assert again.objective.gamma == 0.1
    assert float(again.objective.objective.beta(2)) == 1.0


def test_repr_shows_the_objects_themselves():
    text = repr(kr.objectives.AWP(0.1, kr.objectives.Mixed(0.3)))
    assert text == "AWP(gamma=0.1, objective=Mixed(alpha=0.3))"


def test_the_base_attacks_all_examples_checks_nothing_and_takes_one_step():
    objective = kr.objectives.Objective()
    assert objective.attacked_mask(None) is None
    assert objective.check(None, None) is None
    assert (objective.default_attack, objective.runs_attack) == ("pgd", True)
    assert (objective.takes_unlabelled, objective.persistent_delta) == (False, False)
    assert objective.steps_per_batch == 1


def test_step_goes_along_the_gradient_of_the_loss_at_what_perturb_found():
    calls = []

    class GradientStep:
        classifier = "classifier"

        def backward(self, loss, found):
            calls.append(("backward", loss, found))
            return "result"

        def apply(self, result):
            calls.append(("apply", result))
            return "applied"

    class Noting(kr.objectives.Objective):
        def perturb(self, *request):
            return request

    objective = Noting()
    assert objective.step(GradientStep(), "attack", "batch") == "applied"
    found = ("attack", "classifier", "batch")
    assert calls == [("backward", objective.loss, found), ("apply", "result")]
