import functools
import importlib.util
import sys
import types

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import distributed
from tests.support import killable
from tests.support import refusals
from tests.support.told import BALL
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

has_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"
)
MODULE = sys.modules["keras_robust.evaluation.distribute"]


class _Ray:
    """Ray without processes: a task runs when it is waited for, the last one first."""

    def __init__(self):
        self.options, self.is_up, self.given = [], False, []

    def is_initialized(self):
        return self.is_up

    def init(self, address, **arguments):
        self.is_up, self.given = True, [address, arguments]

    def shutdown(self):
        self.is_up = False

    def put(self, value):
        return value

    def remote(self, function):
        def options(**given):
            self.options.append(given)
            return types.SimpleNamespace(remote=functools.partial(functools.partial, function))

        return types.SimpleNamespace(options=options)

    def wait(self, tasks, timeout):
        assert timeout == 1.0
        return tasks[-1:], tasks[:-1]

    def get(self, tasks):
        return [task() for task in tasks]


class _Queue(list):
    def put(self, item):
        self.append(item)

    def qsize(self):
        return len(self)

    def get_nowait_batch(self, count):
        taken = self[:count]
        del self[:count]
        return taken


@pytest.fixture
def ray(monkeypatch):
    fake = _Ray()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.util.queue", types.SimpleNamespace(Queue=_Queue))
    return fake


def test_the_report_is_merged_and_the_checkpoints_are_removed(ray, tmp_path):
    settings = {"threat_model": BALL, "attacks": "fgsm", "batch_size": 16, "seed": 3}
    report = kr.evaluation.distribute(
        lambda: model, (X, Y), workers=3, threads=2, gpus=1, folder=tmp_path, **settings
    )
    expected = kr.evaluate(model, (X, Y), **settings)
    for part in ("robust_accuracy", "confidence", "per_class", "curve", "checks", "queries"):
        assert getattr(report, part) == getattr(expected, part)
    np.testing.assert_array_equal(report.x_adv, expected.x_adv)
    assert list(tmp_path.iterdir()) == [] and not ray.is_up
    assert ray.given[0] == "local" and ray.given[1]["num_cpus"] == 6
    (options,) = ray.options
    assert (options["num_cpus"], options["num_gpus"], options["max_retries"]) == (2, 1, 10)
    variables = options["runtime_env"]["env_vars"]
    assert variables["TF_NUM_INTRAOP_THREADS"] == variables["OMP_NUM_THREADS"] == "2"
    assert variables["KERAS_BACKEND"] == keras.backend.backend()


def test_a_cluster_that_runs_already_is_used_and_left(ray):
    ray.is_up = True
    kr.evaluation.distribute(lambda: model, (X, Y), BALL, "fgsm", minimum_norm=None)
    assert ray.is_up and ray.given == []
    with refusals.assert_refused("connected to Ray already.*Received: address='10.0.0.1:1'"):
        kr.evaluation.distribute(lambda: model, (X, Y), BALL, "fgsm", address="10.0.0.1:1")


def test_the_bar_shows_the_share_that_is_done(ray, capsys):
    kr.evaluation.distribute(lambda: model, (X, Y), BALL, "fgsm", minimum_norm=None, verbose=True)
    assert "100/100" in capsys.readouterr().out
    # Nothing listens to a later evaluation of the same process.
    assert MODULE.LISTENER.get() is None


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_robust\[ray\]'"):
        kr.evaluation.distribute(lambda: model, (X, Y))


def test_what_is_no_model_and_no_number_is_refused(ray):
    with refusals.assert_refused("path of a saved model, .* Received: an object of type int"):
        kr.evaluation.distribute(3, (X, Y))
    with refusals.assert_refused("`workers` must be an int >= 1. Received: 0"):
        kr.evaluation.distribute(lambda: model, (X, Y), workers=0)


def test_models_reach_the_processes(tmp_path):
    network = distributed.network()
    x = np.random.default_rng(0).uniform(size=(3, 6, 6, 1)).astype("float32")
    network.save(tmp_path / "model.keras")
    for given in (network, tmp_path / "model.keras", distributed.network):
        found = MODULE._loaded(MODULE._portable(given))
        np.testing.assert_array_equal(np.asarray(found(x)), np.asarray(network(x)))


def _plain(report):
    fields = report.to_dict()
    for part in (fields, *fields["attacks"]):
        assert part.pop("seconds") > 0.0
    return fields


@pytest.mark.exhaustive
@has_ray
@pytest.mark.filterwarnings("default")
def test_processes_have_the_bits_of_one():
    x = np.random.default_rng(0).uniform(size=(50, 6, 6, 1)).astype("float32")
    y = np.random.default_rng(1).integers(0, 4, size=50)
    suite = [kr.attacks.APGD(num_steps=5), kr.attacks.Square(num_queries=20)]
    one, two = (
        kr.evaluation.distribute(
            distributed.network(), (x, y), kr.L2(0.05), suite, workers=workers, batch_size=16
        )
        for workers in (1, 2)
    )
    assert _plain(two) == _plain(one)
    for name in ("x_adv", "adv_logits", "distances"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name))


@pytest.mark.exhaustive
@has_ray
@pytest.mark.filterwarnings("default")
def test_a_killed_process_goes_on_from_its_checkpoint(tmp_path):
    suite = [kr.attacks.PGD(num_steps=3, num_restarts=2), kr.attacks.Square(num_queries=10)]
    arguments = {"batch_size": 4, "minimum_norm": None}
    report = kr.evaluation.distribute(
        functools.partial(distributed.load_killable, str(tmp_path)),
        (killable.X, killable.Y),
        killable.BALL,
        suite,
        folder=str(tmp_path / "state"),
        **arguments,
    )
    data = killable.X, killable.Y
    expected = kr.evaluate(
        killable.Killable(), data, killable.BALL, suite, shard="0/1", **arguments
    )
    assert _plain(report) == _plain(kr.RobustnessReport.merge([expected]))
    # One process was killed in its thirteenth pass; not all of its passes were done again.
    uninterrupted = 0
    for shard in ("0/2", "1/2"):
        model = killable.Killable()
        kr.evaluate(model, data, killable.BALL, suite, shard=shard, **arguments)
        uninterrupted += model.count
    passes = [len(path.read_text()) for path in tmp_path.glob("passes_*")]
    assert 13 in passes and uninterrupted < sum(passes) < uninterrupted + 13
    assert list((tmp_path / "state").iterdir()) == []
