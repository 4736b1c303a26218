import pytest
import tensorflow_datasets as tfds

from tests.datasets import idx_test
from tests.support import programs


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


def test_damaged_files_and_then_intact_ones(tmp_path):
    source, data_dir = idx_test.small_files(tmp_path / "source"), tmp_path / "data"
    arguments = "--name=kmnist", f"--source={source}", f"--data_dir={data_dir}"
    labels = source / "t10k-labels-idx1-ubyte.gz"
    intact = labels.read_bytes()
    labels.write_bytes(intact[:-1])
    _assert_one_line(_run(*arguments), f"Expected a gzip file. Received: '{labels}'")

    labels.write_bytes(intact)
    done = _run(*arguments)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{data_dir}/kmnist/3.0.1: 5 train, 3 test images",
        f'Load it with: tfds.load("kmnist", data_dir="{data_dir}")',
    ]
    assert len(tfds.load("kmnist", data_dir=str(data_dir), split="test")) == 3


@pytest.mark.exhaustive
@idx_test.needs_real_files
def test_the_files_of_debian_need_no_flag_but_the_folder(tmp_path):
    done = _run(f"--data_dir={tmp_path}")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == (
        f"{tmp_path}/fashion_mnist/3.0.1: 60000 train, 10000 test images"
    )
    assert len(tfds.load("fashion_mnist", data_dir=str(tmp_path), split="test")) == 10_000
