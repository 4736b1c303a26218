"""An evaluation that was stopped anywhere goes on to the same report."""

import signal

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation import checkpoint as checkpoint_module
from tests.support import backends
from tests.support import fork_server
from tests.support import killable
from tests.support import refusals
from tests.support import tiers

# Outside of a graph it is the error itself; JAX has another class for what fails at once.
_KILLED = (backends.HOST_ERROR, RuntimeError, ValueError)


@pytest.fixture(autouse=True)
def _saves_after_every_batch(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole():
    model = killable.Killable()
    return killable.evaluate(model), model.count


def _stop(path, passes):
    model = killable.Killable(passes)
    with pytest.raises(_KILLED, match="killed"):
        killable.evaluate(model, checkpoint=path)


def _running(path):
    """How many attacks are through, and whether another is under way."""
    with np.load(path) as file:
        names = file.files
    return sum(name.startswith("robust_") for name in names), "run_start" in names


@pytest.mark.exhaustive
def test_the_evaluation_is_worth_resuming(whole):
    report, _ = whole
    assert 0.0 < report.robust_accuracy < report.clean_accuracy < 1.0
    assert [attack.num_attacked for attack in report.attacks] == [7, 7, 7]
    assert len({attack.accuracy for attack in report.attacks}) > 1


@pytest.mark.exhaustive
def test_a_stop_anywhere_changes_nothing(whole, tmp_path):
    expected, passes = whole
    path, seen = tmp_path / "state", set()
    for stop in [*(int(share * passes) for share in (0.2, 0.28, 0.36, 0.52, 0.8)), passes - 1]:
        _stop(path, stop)
        seen.add(_running(path))
        model = killable.Killable()
        killable.assert_same(killable.evaluate(model, checkpoint=path), expected)
        assert list(tmp_path.iterdir()) == []
        # What was done is not done again, but for the clean pass and the batch that was cut off.
        # That batch takes up to 12 passes, and 13 on the way back to the boundary.
        assert passes <= stop + model.count <= passes + 3 + 12 + 13
    # In the middle of every attack, and after each of them.
    middle, between = {(0, True), (1, True), (2, True)}, {(1, False), (2, False), (3, False)}
    assert seen >= middle | between


@pytest.mark.exhaustive
def test_it_may_be_stopped_again_and_again_and_go_on_with_other_batches(whole, tmp_path):
    expected, _ = whole
    path, stops = tmp_path / "state", 0
    for passes in (25, 40, 50, 200):
        try:
            report = killable.evaluate(killable.Killable(passes), checkpoint=path, batch_size=3)
            break
        except _KILLED:
            stops += 1
    assert stops >= 2
    killable.assert_same(report, expected)
    _stop(path, 40)
    report = killable.evaluate(killable.Killable(), checkpoint=path, batch_size=5)
    assert report.robust_accuracy == expected.robust_accuracy
    np.testing.assert_allclose(report.x_adv, expected.x_adv, atol=1e-6)
    np.testing.assert_allclose(report.distances, expected.distances, atol=1e-6)


def test_a_process_that_was_killed(whole, tmp_path):
    expected, passes = whole
    path = tmp_path / "state"
    done = fork_server.call(killable.main, path, passes // 2)
    assert done.code == -signal.SIGKILL, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    model = killable.Killable()
    killable.assert_same(killable.evaluate(model, checkpoint=path), expected)
    assert model.count < passes and not path.exists()


@pytest.mark.exhaustive
def test_an_evaluation_that_is_not_stopped_leaves_no_file(whole, tmp_path):
    report = killable.evaluate(killable.Killable(), checkpoint=tmp_path / "state")
    killable.assert_same(report, whole[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@tiers.parametrize(
    "change,received",
    [
        ({"data": (1.0 - killable.X, killable.Y)}, "different data, outputs of the model$"),
        ({"data": (killable.X, 2 - killable.Y)}, "different data$"),
        ({"threat_model": kr.Linf(0.2)}, "different threat_model$"),
        ({"threat_model": kr.Linf(0.1, (0, 2))}, "different threat_model$"),
        ({"attacks": kr.attacks.PGD(num_steps=4)}, "different attacks$"),
        ({"minimum_norm": None}, "different attacks$"),
        ({"seed": 1}, "different seed$"),
        (
            {"model": lambda x: 1.1 * keras.ops.matmul(x, killable.WEIGHTS)},
            "different outputs of the model$",
        ),
    ],
)
def test_the_state_of_another_evaluation_is_refused(tmp_path, change, received):
    path = tmp_path / "state"
    arguments = {
        "model": killable.Killable(20),
        "data": (killable.X, killable.Y),
        "threat_model": killable.BALL,
        "attacks": kr.attacks.PGD(num_steps=3),
        "minimum_norm": "fmn",
        "batch_size": 3,
        "checkpoint": path,
    }
    with pytest.raises(_KILLED, match="killed"):
        kr.evaluate(**arguments)
    before = path.read_bytes()
    with refusals.assert_refused(f"to another evaluation: .*Received: {received}"):
        kr.evaluate(**{**arguments, "model": killable.Killable(), **change})
    assert path.read_bytes() == before


def test_a_foreign_file_is_refused_and_not_deleted(tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("three years of work")
    with refusals.assert_refused(
        "Expected a checkpoint of `evaluate`.*thesis.txt", folder=tmp_path
    ):
        killable.evaluate(killable.Killable(), checkpoint=path)
    assert path.read_text() == "three years of work"


@pytest.mark.exhaustive
@backends.tensorflow_only("JAX has no tensors of strings")
def test_strings_among_the_inputs(tmp_path):
    cities = np.array([f"Köln {number}" for number in range(8)], dtype=object)
    data = ({"x": killable.X, "city": cities}, killable.Y)
    reports, path = [], tmp_path / "state"
    for passes, kept in ((None, None), (10, path), (None, path)):
        numbers = killable.Killable(passes)

        def model(inputs, numbers=numbers):
            return numbers(inputs["x"])

        arguments = {"attacks": kr.attacks.PGD(num_steps=3), "batch_size": 3, "checkpoint": kept}
        if passes:
            with pytest.raises(_KILLED, match="killed"):
                kr.evaluate(model, data, {"x": killable.BALL}, **arguments)
            assert path.exists()
        else:
            reports.append(kr.evaluate(model, data, {"x": killable.BALL}, **arguments))
    np.testing.assert_array_equal(reports[0].x_adv["x"], reports[1].x_adv["x"])
    np.testing.assert_array_equal(reports[1].x_adv["city"], cities)
    assert reports[0].robust_accuracy == reports[1].robust_accuracy < reports[0].clean_accuracy
