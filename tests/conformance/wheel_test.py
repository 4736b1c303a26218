"""The wheel has all packages, and its programs run beside a folder `apps` of the user's."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]

_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

# What the script of an installed command does.
_COMMAND = """
import importlib.metadata
import sys

import apps
assert apps.OWNER == "somebody else"
programs = importlib.metadata.distribution("keras_robust").entry_points
mains = {program.name: program.load() for program in programs}
sys.argv = ["keras-robust-train", *sys.argv[1:]]
print(sorted(mains), mains[sys.argv[0]].__module__, sys.modules["keras_robust_apps"].__file__)
mains[sys.argv[0]]()
"""


def _options():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _lines(text):
    return text.strip().splitlines()


def test_every_package_is_listed_and_has_a_name_of_our_own():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("keras_robust/**/__init__.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"keras_robust_apps"}
    packages = _lines(_options()["options"]["packages"])
    assert set(packages) == expected and len(packages) == len(expected) > 20


def test_every_program_is_a_command():
    commands = dict(
        line.split(" = ") for line in _lines(_options()["options.entry_points"]["console_scripts"])
    )
    programs = [
        path.stem
        for path in (ROOT / "apps").glob("*.py")
        if "def run_main" in path.read_text(encoding="utf-8")
    ]
    assert len(programs) == 6
    assert commands == {
        f"keras-robust-{name.replace('_', '-')}": f"keras_robust_apps.{name}:run_main"
        for name in programs
    }


@pytest.fixture
def installed(tmp_path):
    """The files of the wheel, in a folder of their own."""
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("apps", "keras_robust"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-c", _BUILD, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    return tmp_path / "installed"


@pytest.mark.exhaustive
def test_the_installed_programs_run_beside_another_apps(installed, tmp_path):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"keras_robust", "keras_robust_apps"}
    for source, name in (("apps", "keras_robust_apps"), ("keras_robust", "keras_robust")):
        expected = {str(path.relative_to(ROOT / source)) for path in (ROOT / source).rglob("*.py")}
        found = {str(p.relative_to(installed / name)) for p in (installed / name).rglob("*.py")}
        assert found == expected
    project = tmp_path / "project"
    (project / "apps").mkdir(parents=True)
    (project / "apps" / "__init__.py").write_text('OWNER = "somebody else"\n')
    path = os.pathsep.join([str(project), str(installed)])
    command = [sys.executable, "-c", _COMMAND, "--help"]
    result = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    first, help_text = result.stdout.split("\n", 1)
    assert f"keras_robust_apps.train {installed}" in first
    assert "Trains a classifier against adversarial examples" in help_text
    assert "--objective_arguments" in help_text and "--epsilon" in help_text
