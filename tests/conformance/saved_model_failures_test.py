import dataclasses
import pathlib

import keras
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import refusals
from tests.support import reports
from tests.support import small_models


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_existing_path_is_refused_and_left_alone(tmp_path, kind):
    path = tmp_path / "1"
    if kind == "folder":
        path.mkdir()
        (path / "saved_model.pb").write_text("old")
    else:
        path.write_text("old")
    with refusals.assert_refused(
        f"must never change: pass a new folder.*path='{path}'",
        folder=tmp_path,
        error=FileExistsError,
    ):
        kr.export_saved_model(small_models.simple(), path, guard=kr.layers.InputGuard())
    assert (path / "saved_model.pb" if kind == "folder" else path).read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path, monkeypatch, error):
    seen = []

    def write_out(archive, folder, **arguments):
        pathlib.Path(folder, "saved_model.pb").write_text("half")
        seen.extend(item.name for item in tmp_path.iterdir())
        raise error

    archive = kr.export.archive.ExportArchive
    monkeypatch.setattr(archive, "write_out", write_out)
    with pytest.raises(type(error)):
        kr.export_saved_model(small_models.simple(), tmp_path / "1", guard=kr.layers.InputGuard())
    assert list(tmp_path.iterdir()) == []
    # A server looks for folders whose names are numbers.
    assert len(seen) == 1
    assert seen[0].startswith(".1.")


@pytest.mark.exhaustive
def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    report = dataclasses.replace(reports.of_identity(3), seed=object())
    model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(1.0)])
    with refusals.assert_refused(
        "not JSON serializable", model, tmp_path, error=TypeError, times=0
    ):
        kr.export_saved_model(model, tmp_path / "1", report=report)
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_publishes_nothing(tmp_path):
    seen = []

    def check(folder):
        loaded = tf.saved_model.load(str(folder))
        seen.append(sorted(loaded.signatures) == ["logits", "serving_default"])
        seen.append((folder / "assets.extra" / "MODEL_CARD.md").exists())
        seen.append((tmp_path / "models").exists() and not (tmp_path / "models" / "1").exists())
        raise ValueError("no")

    with pytest.raises(ValueError, match="^no$"):
        kr.export_saved_model(
            small_models.simple(),
            tmp_path / "models" / "1",
            check=check,
            guard=kr.layers.InputGuard(),
        )
    assert seen == [True] * 3
    assert list(tmp_path.iterdir()) == []
