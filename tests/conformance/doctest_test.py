"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import numpy as np

import keras_robust
from tests.support import backends
from tests.support import tiers

OTHER_BACKEND = "tensorflow" if backends.IS_JAX else "jax"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(keras_robust.__path__, "keras_robust.")
    if f".{OTHER_BACKEND}" not in module.name  # Which cannot be imported on this backend.
)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def _is_slow(name):
    """Examples of attacks compile a search each."""
    return name.startswith("keras_robust.attacks.") or name.endswith("worst_case_linear")


@tiers.parametrize("name", MODULES, one_for=lambda name: "slow" if _is_slow(name) else name)
def test_examples(name, tmp_path, monkeypatch):
    # An example may write files.
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    with np.printoptions(precision=4, suppress=True, legacy=False):
        failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0


def test_the_package_is_found():
    assert "keras_robust.attacks.gradient.pgd" in MODULES
    assert len(MODULES) > 20
