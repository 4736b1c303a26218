import pathlib

import pytest
import tensorflow_datasets as tfds

from keras_robust.datasets import idx
from tests.support import programs

_SOURCE = pathlib.Path(idx.SOURCES["fashion_mnist"])

needs_real_files = pytest.mark.skipif(
    not _SOURCE.is_dir(),
    reason=f"Debian's package dataset-fashion-mnist is not installed in {_SOURCE}",
)


def _run(*arguments):
    return programs.run("prepare_idx", *arguments)


def _assert_one_line(done, message):
    programs.assert_one_line(done, message)
    assert done.stdout == ""


def test_a_missing_source_is_one_line(tmp_path):
    done = _run(f"--source={tmp_path}", f"--data_dir={tmp_path / 'data'}")
    _assert_one_line(done, f"Received: source='{tmp_path}', which lacks train-images")


def test_another_name_needs_a_source(tmp_path):
    done = _run("--name=mnist", f"--data_dir={tmp_path / 'data'}")
    _assert_one_line(done, "Expected the 4 files of 'mnist'. Received: source='.', which lacks")
    assert done.code == 1


def test_an_empty_source_is_one_line():
    _assert_one_line(_run("--source="), "flag --source=: Expected a folder.")


@needs_real_files
def test_damaged_files_and_then_the_real_ones(tmp_path):
    source, data_dir = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    for path in _SOURCE.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    labels = source / "t10k-labels-idx1-ubyte.gz"
    intact = labels.read_bytes()
    labels.write_bytes(intact[:-1])
    done = _run(f"--source={source}", f"--data_dir={data_dir}")
    _assert_one_line(done, f"Expected a gzip file. Received: '{labels}'")

    labels.write_bytes(intact)
    done = _run(f"--source={source}", f"--data_dir={data_dir}")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{data_dir}/fashion_mnist/3.0.1: 60000 train, 10000 test images",
        f'Load it with: tfds.load("fashion_mnist", data_dir="{data_dir}")',
    ]
    assert len(tfds.load("fashion_mnist", data_dir=str(data_dir), split="test")) == 10_000
