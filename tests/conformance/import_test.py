"""`import keras_robust` costs little more than `import keras`, and leaves no files."""

import pathlib
import subprocess
import sys

import keras
import pytest

PROGRAM = """
import sys
import keras
before = set(sys.modules)
import keras_robust
print(" ".join(sorted(name for name in set(sys.modules) - before if "." not in name)))
"""
# What a data set, a picture or a server needs, and nobody else.
HEAVY = {"tensorflow_datasets", "matplotlib", "sklearn", "PIL", "pandas", "kserve", "onnx"}


def _run(program, home):
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["KERAS_BACKEND"] = keras.backend.backend()
    root = str(pathlib.Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout, {str(path.relative_to(home)) for path in home.rglob("*")}


@pytest.mark.exhaustive
def test_no_heavy_library_and_no_file_in_the_home_folder(tmp_path):
    modules, files = _run(PROGRAM, tmp_path / "ours")
    _, files_of_keras = _run("import keras", tmp_path / "keras")
    assert "keras_robust" in modules.split()
    assert not HEAVY & set(modules.split())
    assert files == files_of_keras
