"""Prepares MNIST, Fashion-MNIST and the like for TensorFlow Datasets, without a download.

    apt-get install dataset-fashion-mnist
    keras-robust-prepare-idx
    keras-robust-prepare-idx --name=mnist --source=DIR

The program reads the four IDX files of the data set. It takes about 20 seconds on two CPU cores.
"""

import contextlib
import io

import tensorflow_datasets as tfds
from absl import flags

from keras_robust.datasets import idx

from . import cli


def define_flags():
    """Defines the flags of this program."""
    flags.DEFINE_string("name", "fashion_mnist", "Name of the data set in TensorFlow Datasets.")
    flags.DEFINE_string(
        "source",
        None,
        "Folder of the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz. Default: where "
        "Debian's package dataset-fashion-mnist has them.",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of prepared TensorFlow data sets to write to. Default: ~/tensorflow_datasets.",
    )
    flags.register_validator("source", lambda value: value != "", "Expected a folder.")
    flags.register_validator("data_dir", lambda value: value != "", "Expected a folder.")


def run(name, source, data_dir):
    """Prepares the data set, and prints its path and how to load it.

    Args:
        name: string, the name of the data set.
        source: string or `None`, the folder of the four files.
        data_dir: string or `None`, the folder to write to.
    """
    # Hide the output of TensorFlow Datasets, which reports a download that does not happen.
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder = idx.prepare(name, source, data_dir)
    sizes = ", ".join(f"{split.num_examples} {key}" for key, split in builder.info.splits.items())
    print(f"{builder.data_path}: {sizes} images")
    location = "" if data_dir is None else f', data_dir="{data_dir}"'
    print(f'Load it with: tfds.load("{name}"{location})')


def main(_):
    run(flags.FLAGS.name, flags.FLAGS.source, flags.FLAGS.data_dir)


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
