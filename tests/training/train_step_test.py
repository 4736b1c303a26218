import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import training
from keras_robust.training.train_step import BaseTrainStep
from tests.support import backends
from tests.support import linear_fit
from tests.support import refusals


def _step(epsilon_warmup=(0, 0), **arguments):
    model = linear_fit.make_model()
    attack, objective = kr.attacks.PGD(num_steps=1), kr.objectives.Adversarial()
    return BaseTrainStep(
        model, attack, objective, kr.Linf(0.5), epsilon_warmup=epsilon_warmup, seed=7, **arguments
    )


@pytest.mark.parametrize(("iteration", "share"), [(0, 0.0), (2, 0.25), (5, 1.0), (9, 1.0)])
def test_epsilon_grows_along_the_ramp(iteration, share):
    step = _step((2, 4))
    step.model.optimizer.iterations.assign(iteration)
    threat_model, found, seed = step._step_context()
    assert float(np.max(threat_model.epsilon)) == pytest.approx(0.5 * share)
    assert int(found) == iteration
    assert np.asarray(seed).tolist() == [7, iteration]


@pytest.mark.parametrize("past", [-100, -1, 0, 5])
@pytest.mark.parametrize("epsilon_warmup", [(2, 4), (0, 2**40)])
def test_epsilon_stays_behind_2_31_steps(past, epsilon_warmup):
    step = _step(epsilon_warmup)
    step.model.optimizer.iterations.assign(2**31 - 101)
    step.model.optimizer.iterations.assign_add(past + 101)
    # JAX counts no further than 2**31 - 1, neither steps nor ramps.
    share = 1.0 if epsilon_warmup[1] == 4 or backends.IS_JAX else 2.0 ** (31 - 40)
    threat_model, found, seed = step._step_context()
    assert float(np.max(threat_model.epsilon)) == pytest.approx(0.5 * share, rel=1e-6)
    assert int(found) == (2**31 + (min(past, -1) if backends.IS_JAX else past))
    # Another one for every batch.
    assert np.asarray(seed).tolist() == [7, past + 2**31 if past < 0 else past - 2**31]


def test_ramp_and_seed_are_data_of_the_step():
    step = _step((2, 4))
    step.model.optimizer.iterations.assign(5)
    step.epsilon_warmup, step.seed = (3, 6), 8
    assert (step.epsilon_warmup, step.seed) == ((3, 6), 8)
    threat_model, _, seed = step._step_context()
    assert float(np.max(threat_model.epsilon)) == pytest.approx(0.5 * 0.5)
    assert np.asarray(seed).tolist() == [8, 5]


def test_a_short_batch_leaves_the_rows_of_the_perturbation_that_it_did_not_have():
    step = _step()
    kept = keras.ops.reshape(keras.ops.arange(6.0), (3, 2))
    short = keras.ops.zeros((2, 2))
    np.testing.assert_array_equal(step._carried_delta(kept, short), [[0, 1], [2, 3]])
    long = step._carried_delta(kept, keras.ops.ones((4, 2)))
    np.testing.assert_array_equal(long, [[0, 1], [2, 3], [4, 5], [0, 0]])
    np.testing.assert_array_equal(step._carried(short, kept), [[0, 0], [0, 0], [4, 5]])


def test_meters_start_anew_and_logs_of_one_replica_stay():
    step = _step(attack_dtype="bfloat16")
    assert step.attack_dtype == "bfloat16"
    step.accuracy.update_state(1.0)
    step.reset_meters()
    assert float(step.accuracy.result()) == 0.0
    logs = {"loss": 1.0}
    assert step.aggregate_logs(logs) is logs


def test_a_backend_must_write_its_own_methods():
    step = _step()
    methods = step, step.forget, step.use_xla
    methods += (lambda: step._make_gradient_step(None, None), lambda: step._new_delta(None))
    for method in methods:
        with pytest.raises(NotImplementedError):
            method()
    backend = {"__call__", "forget", "use_xla", "_make_gradient_step", "_new_delta"}
    assert backend <= set(vars(training.TrainStep))


class _Own(kr.objectives.Adversarial):
    """Returns what `change` makes of the result of the step."""

    def __init__(self, change):
        self.change = change

    def step(self, gradient_step, attack, batch):
        found = self.perturb(attack, gradient_step.classifier, batch)
        result = gradient_step.backward(self.loss, found)
        return self.change(result, gradient_step.apply(result))


def _fit(objective):
    model = linear_fit.make_model()
    return model, linear_fit.fit(model, linear_fit.adv_train(objective=objective)).history


@pytest.mark.parametrize("change", [lambda *both: both[1], lambda *both: both[1]._replace()])
def test_a_step_of_ones_own_may_return_the_applied_result(change):
    (model, logs), (other, expected) = _fit(_Own(change)), _fit("adversarial")
    assert logs == expected
    np.testing.assert_array_equal(linear_fit.weights(model), linear_fit.weights(other))


def test_a_step_of_ones_own_may_replace_the_loss_that_is_logged():
    _, logs = _fit(_Own(lambda _, applied: applied._replace(loss=applied.loss * 0.0 + 7.0)))
    assert logs["loss"] == [7.0]


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda result, _: result, "a StepResult that `apply` did not return, from _Own.step"),
        (lambda result, _: result.loss, "an object of type .*, from _Own.step"),
        (lambda *_: None, "an object of type NoneType, from _Own.step"),
    ],
)
def test_a_step_of_ones_own_that_returns_something_else_is_refused(change, received):
    message = r"must return the result of `gradient_step.apply\(...\)`.*Received: " + received
    with pytest.raises(ValueError, match=message):
        _fit(_Own(change))


def test_what_cannot_be_trained_is_refused():
    step = _step()
    with pytest.raises(ValueError, match="needs labels to train on. Received: y=None"):
        step._requirements(keras.ops.zeros((2, 4)), None, None)
    batch = {"image": keras.ops.zeros((2, 4)), "label": keras.ops.zeros((2,))}
    advice = (
        r"dataset.map\(lambda batch: \(batch\['image'\], batch\['label'\]\)\)`. Received: y=None"
    )
    with pytest.raises(ValueError, match=advice):
        step._requirements(batch, None, None)
    step.model.loss = None
    with pytest.raises(ValueError, match="`add_loss` in an endpoint layer. End the model"):
        step._requirements(keras.ops.zeros((2, 4)), None, None)
    step.model.trainable = False
    with refusals.assert_refused("no trainable weights.*Received: 1 weights"):
        step._refuse_frozen()
