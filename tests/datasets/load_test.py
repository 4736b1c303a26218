import importlib
import sys

import numpy as np

from keras_robust import datasets
from keras_robust.datasets import digits
from tests.support import fork_server


def test_the_default_is_the_digits():
    loaded, expected = datasets.load(), digits.load()
    assert isinstance(loaded, datasets.Dataset)
    assert loaded.name == expected.name == "digits"
    np.testing.assert_array_equal(loaded.test[0], expected.test[0])


def _load_without_tensorflow_datasets():
    sys.modules["tensorflow_datasets"] = None  # Importing it fails.
    for name in [name for name in sys.modules if name.startswith("keras_robust.datasets")]:
        del sys.modules[name]
    datasets = importlib.import_module("keras_robust.datasets")
    sys.stdout.write(f"{len(datasets.load('digits').train[1])}\n")
    try:
        datasets.load("mnist")
    except ImportError:
        sys.stdout.write("not imported\n")


def test_the_digits_do_without_tensorflow_datasets():
    done = fork_server.call(_load_without_tensorflow_datasets)
    assert (done.code, done.stdout) == (0, "1297\nnot imported\n"), done.stderr
