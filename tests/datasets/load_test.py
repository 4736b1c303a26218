import subprocess
import sys

import numpy as np

from keras_robust import datasets
from keras_robust.datasets import digits


def test_the_default_is_the_digits():
    loaded, expected = datasets.load(), digits.load()
    assert isinstance(loaded, datasets.Dataset)
    assert loaded.name == expected.name == "digits"
    np.testing.assert_array_equal(loaded.test[0], expected.test[0])


def test_the_digits_do_without_tensorflow_datasets():
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = None\n"  # Importing it fails.
        "from keras_robust import datasets\n"
        "print(len(datasets.load('digits').train[1]))\n"
        "try: datasets.load('mnist')\n"
        "except ImportError: print('not imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1297", "not imported"]
