import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.objectives import ObjectiveWrapper
from keras_robust.objectives import Regularised
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import numpy_reference
from tests.support import refusals

SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.5, 2.0])


class Odd(kr.objectives.Objective):
    """Differs from the base class in every attribute, and records its calls."""

    default_attack = "fgsm"
    runs_attack = False
    takes_unlabelled = "if_ignored"

    def check(self, *request):
        raise KeyError("check", *request)

    def new_objective_state(self, *request):
        return request

    def perturb(self, *request):
        return "perturb", request

    def attacked_mask(self, *request):
        return "attacked", request

    def loss(self, *request):
        return "loss", request


# The wrapper implements these itself; objectives with their own `step` are not wrapped.
OWN = {"get_config", "from_config", "step", "persistent_delta", "steps_per_batch"}


def test_every_attribute_comes_from_the_wrapped_objective():
    public = {name for name in vars(kr.objectives.Objective) if not name.startswith("_")}
    assert public - OWN == {name for name in vars(Odd) if not name.startswith("_")}
    wrapping = ObjectiveWrapper(Odd())
    assert wrapping.default_attack == "fgsm"
    assert wrapping.new_objective_state(1, 2, 3) == ((1, 2, 3))
    assert wrapping.runs_attack is False
    assert wrapping.takes_unlabelled == "if_ignored"
    assert wrapping.perturb("attack", "classifier", "batch") == (
        "perturb",
        ("attack", "classifier", "batch"),
    )
    assert wrapping.attacked_mask("batch") == ("attacked", ("batch",))
    assert wrapping.loss("clean", "adversarial") == ("loss", ("clean", "adversarial"))
    with pytest.raises(KeyError) as caught:
        wrapping.check("model", "ball")
    assert caught.value.args == ("check", "model", "ball")


def test_what_is_not_set_within_is_that_of_the_base():
    wrapping = ObjectiveWrapper("adversarial")
    assert wrapping.default_attack == "pgd"
    assert wrapping.runs_attack is True
    assert wrapping.takes_unlabelled is False
    assert wrapping.attacked_mask(None) is None


def test_the_default_attack_within_is_the_default():
    assert isinstance(kr.AdvTrain(objective=ObjectiveWrapper(Odd())).attack, kr.attacks.FGSM)


def test_check_within_runs_before_a_training():
    x, y = linear_fit.data(8)
    callback = linear_fit.adv_train(objective=ObjectiveWrapper(Odd()))
    with pytest.raises(KeyError) as caught:
        linear_fit.fit(linear_fit.make_model(), callback, x, y)
    assert caught.value.args[2] is callback.threat_model


@pytest.mark.parametrize("identifier", ["trades", "TRADES", kr.objectives.TRADES])
def test_the_objective_within_may_be_named(identifier):
    assert repr(ObjectiveWrapper(identifier).objective) == "TRADES(beta=6.0)"


@pytest.mark.parametrize("name", ["pgd", None, 3])
def test_unknown_objectives(name):
    with pytest.raises(ValueError, match="Unknown objective. Expected one of 'adversarial'"):
        ObjectiveWrapper(name)


@pytest.mark.parametrize(
    "within", [kr.objectives.AWP(0.1), "free", kr.objectives.AWP], ids=["object", "name", "class"]
)
def test_objectives_with_steps_of_their_own_go_outside(within):
    name = "Free" if within == "free" else "AWP"
    message = (
        f"{name} has its own optimizer step, which {{}} would not call. Wrap the other way "
        f"round, or use one of the two. Received: objective={name}("
    )
    with refusals.assert_refused(re.escape(message.format("ObjectiveWrapper"))):
        ObjectiveWrapper(within)
    with refusals.assert_refused(re.escape(message.format("Squares"))):
        Squares(1.0, within)


@keras.saving.register_keras_serializable(package="keras_robust_tests")
class Squares(Regularised):
    """Penalises squared logits of the adversarial, and linear ones of the clean examples."""

    def __init__(self, weight=1.0, objective="adversarial"):
        super().__init__(weight, objective)

    def penalty(self, clean, adversarial):
        squares = keras.ops.sum(adversarial.logits**2, axis=-1)
        return squares + keras.ops.sum(clean.logits, axis=-1)


def _expected(weight, alpha, sample_weight):
    z, z_adv = (
        numpy_reference.logits(x.astype("float64"))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    loss = alpha * forward_passes.cross_entropy(z) + (1.0 - alpha) * forward_passes.cross_entropy(
        z_adv
    )
    penalty = np.sum(z_adv**2, axis=-1) + np.sum(z, axis=-1)
    return forward_passes.mean(loss + weight * penalty, sample_weight)


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_the_penalty_of_each_example_is_weighed_as_its_loss(weight, sample_weight):
    objective = Squares(weight, kr.objectives.Mixed(0.3))
    found = objective.loss(
        *forward_passes.forward_passes(forward_passes.model(), sample_weight=sample_weight)
    )
    assert float(found) == pytest.approx(_expected(weight, 0.3, sample_weight), rel=1e-5)


@pytest.mark.parametrize("iteration,weight", [(0, 0.5), (4, 0.5), (5, 2.0)])
def test_the_weight_may_be_a_schedule_of_optimizer_steps(iteration, weight):
    objective = Squares(SCHEDULE, kr.objectives.Mixed(0.3))
    found = objective.loss(
        *forward_passes.forward_passes(forward_passes.model(), iteration=iteration)
    )
    assert float(found) == pytest.approx(_expected(weight, 0.3, None), rel=1e-5)


def test_regularisers_count_once():
    losses = [
        float(
            Squares(0.5, "mixed").loss(
                *forward_passes.forward_passes(forward_passes.model(penalty=penalty))
            )
        )
        for penalty in (0.1, 0.0)
    ]
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert losses[0] - losses[1] == pytest.approx(penalty, rel=1e-5)


def test_penalties_add_up():
    both = Squares(0.5, Squares(0.25, kr.objectives.Mixed(0.3)))
    found = both.loss(*forward_passes.forward_passes(forward_passes.model()))
    assert float(found) == pytest.approx(_expected(0.75, 0.3, None), rel=1e-5)


def test_the_base_has_no_penalty():
    with pytest.raises(NotImplementedError):
        Regularised(1.0, "adversarial").penalty(None, None)


def test_config_holds_the_objective_within():
    objective = Squares(SCHEDULE, Squares(0.25, kr.objectives.TRADES(beta=2.0)))
    config = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == objective.get_config()
    assert again.objective.weight == 0.25
    assert again.objective.objective.beta == 2.0
    assert float(again.weight(5)) == 2.0
    assert repr(again.objective) == "Squares(weight=0.25, objective=TRADES(beta=2.0))"


@pytest.mark.parametrize("weight", [-1.0, float("inf"), "much", None])
def test_wrong_weight(weight):
    message = "`weight` must be a number from 0 to inf, or a LearningRateSchedule. Received: wei"
    refusals.assert_argument_refused(Squares, message, weight=weight)
