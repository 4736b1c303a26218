import inspect

import keras
import numpy as np
import pytest

import keras_robust as kr
from apps import models
from apps import training
from keras_robust import datasets
from tests.support import tiers


@pytest.fixture(scope="module")
def dataset():
    """The first digits only."""
    digits = datasets.load("digits")
    parts = {"train": 200, "validation": 40, "test": 40}
    return digits._replace(
        **{name: tuple(a[:size] for a in getattr(digits, name)) for name, size in parts.items()}
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("cls", kr.attacks.ALL)
def test_the_attacks_that_are_offered_are_those_that_can_train(cls, dataset):
    steps = {"num_steps": 2} if "num_steps" in inspect.signature(cls).parameters else {}

    def fit(threat_model):
        model = models.build("small_cnn", dataset, 0.1)
        callback = kr.AdvTrain(threat_model, attack=cls(**steps), warmup=0)
        x, y = (part[:8] for part in dataset.train)
        return model.fit(x, y, verbose=0, callbacks=[callback]).history

    for threat_model in (kr.Linf(0.1), kr.L2(0.5)):
        try:
            assert "adv_accuracy" in fit(threat_model)
            can_train = True
            break
        except (ValueError, TypeError):  # The attack has another norm or needs other data.
            can_train = False
    assert can_train == (cls in training.attacks())


def _optimizer(iterations):
    optimizer = keras.optimizers.SGD()
    optimizer.iterations.assign(iterations)
    return optimizer


def _order(batches):
    batches.on_epoch_begin()
    return np.concatenate([batches[i][1] for i in range(len(batches))])


def _batches(iterations, seed=3, batch_size=4):
    x, y = np.arange(10)[:, None] * 2.0, np.arange(10)
    return training.ShuffledBatches(
        x, y, batch_size=batch_size, seed=seed, optimizer=_optimizer(iterations)
    )


def test_batches_cover_the_data_once():
    batches = _batches(0)
    batches.on_epoch_begin()
    assert len(batches) == 3
    assert [len(batches[i][0]) for i in range(3)] == [4, 4, 2]
    for i in range(3):
        x, y = batches[i]
        np.testing.assert_array_equal(x[:, 0], 2.0 * y)
    np.testing.assert_array_equal(np.sort(_order(batches)), np.arange(10))


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    first = _order(_batches(0))
    np.testing.assert_array_equal(_order(_batches(2)), first)
    assert np.any(_order(_batches(3)) != first)
    assert np.any(_order(_batches(0, seed=4)) != first)
    used = _batches(0)
    _order(used)
    used.optimizer.iterations.assign(3)
    np.testing.assert_array_equal(_order(used), _order(_batches(3)))


class _Kill(keras.callbacks.Callback):
    """Ends the training after some epochs, or in the middle of the next."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.when = (epoch, batch)
        self.epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            raise RuntimeError("killed")


def _fit(dataset, callbacks=(), checkpoint_dir=None, objective="adversarial"):
    keras.utils.set_random_seed(0)
    model = models.build("small_cnn", dataset, 2e-3)
    attack = kr.attacks.PGD(num_steps=2)
    defence = kr.AdvTrain(kr.Linf(0.1), attack=attack, objective=objective, warmup="75%", seed=5)
    training.train(
        model,
        dataset,
        epochs=4,
        batch_size=64,
        seed=0,
        callbacks=[defence, *callbacks],
        checkpoint_dir=checkpoint_dir,
    )
    return model


@pytest.mark.exhaustive
@tiers.parametrize("batch", [2, 0])
def test_a_killed_training_goes_on_to_the_same_weights(dataset, tmp_path, batch):
    expected = _fit(dataset)
    with pytest.raises(RuntimeError, match="killed"):
        _fit(dataset, [_Kill(2, batch)], str(tmp_path))
    found = _fit(dataset, (), str(tmp_path))
    assert int(found.optimizer.iterations) == int(expected.optimizer.iterations) == 16
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.exhaustive
def test_a_finished_training_is_not_trained_again(dataset, tmp_path):
    first, again = (_fit(dataset, (), str(tmp_path)) for _ in range(2))
    assert int(again.optimizer.iterations) == 16
    for one, other in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("text", "expected"), [("30", 30), ("30%", "30%"), ("2.5%", "2.5%")])
def test_warmup_is_a_percentage_or_a_number_of_steps(text, expected):
    assert training.parse_warmup(text) == expected


def test_attacks_by_name():
    assert training.make_attack("bim", 4).num_steps == 4
    usual = kr.attacks.PGD()
    assert training.make_attack("pgd", None).get_config() == usual.get_config()
    with pytest.raises(ValueError, match="fixed number of steps.*Received: --attack=fgsm --num_st"):
        training.make_attack("fgsm", 4)


def test_folders_are_made_and_kept_for_one_command(tmp_path, capsys):
    folders = tmp_path / "new" / "out", tmp_path / "new" / "checkpoints"
    assert training.prepare_folders(*map(str, folders), {"seed": 1, "epochs": 2}) == folders[0]
    assert [list(folder.iterdir()) for folder in folders] == [[], [folders[1] / "settings.json"]]
    (folders[0] / "model.keras").touch()
    assert capsys.readouterr().out == ""
    training.prepare_folders(folders[0], folders[1], {"seed": 1, "epochs": 2})
    assert "an earlier run" in capsys.readouterr().out
    with pytest.raises(ValueError, match="other settings.*checkpoints, where --seed was 1$"):
        training.prepare_folders(folders[0], folders[1], {"seed": 2, "epochs": 2})


@pytest.mark.parametrize("text", ['{"seed": 1', "[1]", ""])
def test_settings_that_cannot_be_read_are_named(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings of a training in .*settings.json.*delete it"):
        training.prepare_folders(tmp_path / "out", tmp_path, {"seed": 1})
    assert (tmp_path / "settings.json").read_text() == text


@pytest.mark.exhaustive
def test_the_written_model_is_the_named_one(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kr.RobustnessReport, "plot", lambda self, path: open(path, "x").close())
    trained = {name: models.build("small_cnn", dataset, 2e-3) for name in ("weak", "strong")}
    settings = {
        "evaluation_steps": 1,
        "evaluation_restarts": 1,
        "evaluation_examples": 9,
        "seed": 3,
    }
    reports = training.attack(trained, dataset, kr.Linf(0.1), settings)
    assert {(r.num_examples, r.seed, len(r.attacks)) for r in reports.values()} == {(9, 3, 2)}
    training.write("strong", trained["strong"], reports, dataset, tmp_path)
    kept = keras.models.load_model(tmp_path / "model.keras", compile=False)
    for one, other in zip(kept.get_weights(), trained["strong"].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, path in (("strong", "report.json"), ("weak", "report_weak.json")):
        assert kr.RobustnessReport.load(tmp_path / path) == reports[name]
    written = "model.keras, saved_model/1, report.json, report_weak.json, examples.png, "
    assert capsys.readouterr().out.endswith(f"{tmp_path}: {written}examples_weak.png\n")
