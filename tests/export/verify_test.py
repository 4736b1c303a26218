import shutil

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.export import verify
from keras_robust.export import warmup_log

X = np.random.default_rng(0).uniform(size=(20, 4)).astype("float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    return model, kr.export_saved_model(
        model, tmp_path_factory.mktemp("models") / "1", guard=kr.layers.InputGuard()
    )


def test_replay(exported):
    assert verify.replay_in_fresh_process(exported[1]) == warmup_log.replay(exported[1])


@pytest.mark.exhaustive
def test_replay_refuses_another_model(exported, tmp_path):
    model, path = exported
    other = tmp_path / "1"
    shutil.copytree(path, other)
    shutil.copy(path / warmup_log.PLACE, tmp_path / "log")
    warmup_requests = warmup_log.read(other / warmup_log.PLACE)
    warmup_requests[0].outputs["probabilities"] += 0.001
    warmup_log.write(other / warmup_log.PLACE, "1", warmup_requests)
    with pytest.raises(
        ValueError, match="must answer its warmup requests like Keras.*Received: path="
    ):
        verify.replay_in_fresh_process(other)
    warmup_requests[0].outputs["probabilities"][:] = np.nan
    warmup_log.write(other / warmup_log.PLACE, "1", warmup_requests)
    with pytest.raises(ValueError, match="must answer its warmup requests like Keras"):
        verify.replay_in_fresh_process(other)


@pytest.mark.exhaustive
def test_replay_refuses_a_folder_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match="must work without Keras. Received: path=.*fails"):
        verify.replay_in_fresh_process(tmp_path)


@pytest.mark.exhaustive
def test_scores_of_votes_are_compared(tmp_path):
    base = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Rescaling(9.0)])
    model = kr.layers.RandomizedSmoothing(base, 0.2, num_samples=10, seed=0)
    path = kr.export_saved_model(model, tmp_path / "1", guard=kr.layers.InputGuard())
    y = np.argmax(model(X), axis=-1)
    attack = kr.attacks.PGD(num_steps=2)
    found = verify.compare_robustness(path, model, (X, y), kr.Linf(0.1), [attack], num_examples=5)
    for pair in found.values():
        in_memory, served = pair.values()
        np.testing.assert_allclose(in_memory.logits, served.logits, atol=1e-5)
        assert in_memory.robust_accuracy == served.robust_accuracy


@pytest.mark.exhaustive
def test_compare_robustness(exported):
    model, path = exported
    y = model.predict(X, verbose=0).argmax(axis=-1)
    y[3] = (y[3] + 1) % 3
    found = verify.compare_robustness(
        path, model, (X, y), kr.Linf(0.05), [kr.attacks.PGD(num_steps=5)], num_examples=15, seed=4
    )
    assert [list(reports) for reports in found.values()] == [["in memory", "served"]] * 2
    reports = [report for pair in found.values() for report in pair.values()]
    assert [report.num_examples for report in reports] == [15] * 4
    assert [report.seed for report in reports] == [4] * 4
    for pair in found.values():
        accuracies = [report.robust_accuracy for report in pair.values()]
        assert accuracies[0] == accuracies[1] < 14 / 15
    names = [[attack.name for attack in report.attacks] for report in reports]
    assert names == [["PGD"]] * 2 + [["Square"]] * 2
    # For a linear model the margin over the dual norm determines which examples can be attacked.
    kernel = np.asarray(model.layers[0].kernel).astype("float64")
    logits = X[:15].astype("float64") @ kernel
    rows = np.arange(15)
    margins = [
        logits[rows, y[:15]]
        - logits[:, other]
        - 0.05 * np.abs(kernel[:, y[:15]] - kernel[:, [other]]).sum(axis=0)
        for other in range(3)
    ]
    margins = np.where(np.arange(3)[:, None] == y[:15], np.inf, margins)
    is_inside = np.all((X[:15] > 0.05) & (X[:15] < 0.95), axis=-1)
    robust = margins.min(axis=0) > 0.0
    found_adv = found["white-box"]["served"].adv_logits.argmax(axis=-1) == y[:15]
    np.testing.assert_array_equal(found_adv[is_inside], robust[is_inside])
    assert is_inside.sum() > 5
