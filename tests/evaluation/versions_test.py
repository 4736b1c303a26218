import importlib.metadata

from keras_robust.evaluation.versions import library_versions
from tests.support import backends


def test_the_versions_are_those_that_are_installed():
    found = library_versions()
    assert len(found) == 5
    for name in ("keras_robust", "keras", "numpy"):
        assert found[name] == importlib.metadata.version(name)
    assert found["backend"] == ("jax" if backends.IS_JAX else "tensorflow")
