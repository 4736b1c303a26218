import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import training
from tests.support import linear_fit

X, Y = linear_fit.data(8)


def test_fields_and_their_order():
    batch = training.Batch(
        "x", "y", "weight", "threat model", "iteration", "seed", "delta", "objective_state"
    )
    assert batch._asdict() == {
        "x": "x",
        "y": "y",
        "sample_weight": "weight",
        "threat_model": "threat model",
        "iteration": "iteration",
        "seed": "seed",
        "delta": "delta",
        "objective_state": "objective_state",
    }


def test_only_some_objectives_need_a_delta_or_a_memory():
    batch = training.Batch(*"xywtis")
    assert batch.delta is None
    assert batch.objective_state is None
    assert batch._replace(x="x_adv") == ("x_adv", *batch[1:])


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.0, 2.0, 8)])
@pytest.mark.parametrize("accumulated", [None, 2])
def test_is_what_a_train_step_knows(sample_weight, accumulated):
    seen = []

    class Spy(kr.objectives.Clean):
        def perturb(self, attack, classifier, batch):
            seen.append(batch)
            return super().perturb(attack, classifier, batch)

    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
    model = linear_fit.make_model(optimizer=optimizer, run_eagerly=True)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.2])
    callback = kr.AdvTrain(kr.L2(schedule, (-1.0, 2.0)), objective=Spy(), seed=5)
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    linear_fit.fit(model, callback, X.astype("float64"), Y, batch_size=4, **weights)
    first, second = seen
    np.testing.assert_array_equal(second.x, X[4:])
    np.testing.assert_array_equal(second.y, Y[4:])
    assert first.x.dtype == second.x.dtype == "float32"
    if sample_weight is None:
        assert second.sample_weight is None
    else:
        np.testing.assert_allclose(second.sample_weight, sample_weight[4:], rtol=1e-6)
    # The iteration counts optimizer steps, the seed batches.
    steps = 0 if accumulated else 1
    assert [int(batch.iteration) for batch in seen] == [0, steps]
    assert [tuple(np.asarray(batch.seed)) for batch in seen] == [(5, 0), (5, 1)]
    assert float(second.threat_model.radius) == pytest.approx(0.2 if steps else 0.1)
    assert second.threat_model.bounds == (-1.0, 2.0)
    assert second.delta is None
