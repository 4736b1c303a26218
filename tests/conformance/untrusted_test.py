"""Files from strangers: nothing in them is run, and what is read is checked."""

import ast
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_robust as kr
from apps import models
from tests.support import refusals
from tests.support import reports

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("keras_robust", "apps", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
# Each of them can run what a file says.
RUNNERS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml"}


def _calls(tree):
    """The calls in a module: the dotted name and the node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _problems(text):
    """What in a module could run something that it reads from a file."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [name for name in names if name.split(".")[0] in RUNNERS]
    for name, node in _calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name.endswith(("np.load", "numpy.load")) and keywords.get("allow_pickle") != "False":
            found.append(f"{name} without allow_pickle=False")
        if keywords.get("allow_pickle") == "True":
            found.append("allow_pickle=True")
        if keywords.get("safe_mode") == "False" or "enable_unsafe" in name:
            found.append(f"{name} in unsafe mode")
        if name in ("eval", "exec", "compile", "__import__", "os.system"):
            found.append(name)
        if keywords.get("shell") == "True":
            found.append("shell=True")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import yaml.loader",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "keras.models.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "eval(text)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert len(_problems(text)) >= 1


def test_nothing_in_the_tree_runs_what_it_reads():
    assert len(SOURCES) > 150
    found = {str(path.relative_to(ROOT)): _problems(path.read_text()) for path in SOURCES}
    assert {path: problems for path, problems in found.items() if problems} == {}


@pytest.fixture
def trap(tmp_path):
    """A `.keras` file with a Lambda layer that would make a file, and that file."""
    marker = tmp_path / "ran"
    layer = keras.layers.Lambda(eval(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]"))
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(3)])
    path = tmp_path / "model.keras"
    model.save(path)
    marker.unlink(missing_ok=True)
    return path, marker


def test_the_trap_works(trap):
    path, marker = trap
    model = keras.models.load_model(path, safe_mode=False)
    model(np.zeros((1, 4)))
    assert marker.exists()


@pytest.mark.parametrize(
    "load", [models.load_keras, models.load_for_attack, lambda path: _build(path)]
)
def test_the_code_in_a_keras_file_is_refused_and_not_run(trap, load):
    path, marker = trap
    with refusals.assert_refused(
        "not a readable Keras model: .*(safe|unsafe|lambda)", folder=path.parent
    ):
        load(str(path))
    assert not marker.exists()


def _build(path):
    return models.build(path, kr.datasets.load("digits"), 1e-3)


def _certificate():
    x, y = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32"), np.arange(6) % 3
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    return kr.certify(model, (x, y), kr.certification.Interval()).to_dict()


@pytest.mark.parametrize("spoil", ["drop", "add", "text", "nan", "schema"])
def test_no_field_of_a_report_is_taken_on_trust(tmp_path, spoil):
    certificate = kr.CertificateReport, _certificate()
    for cls, plain in ((kr.RobustnessReport, reports.make_with_proofs().to_dict()), certificate):
        cls.from_dict(json.loads(json.dumps(plain)))
        for name in list(plain):
            broken = dict(plain)
            if spoil == "drop" and name == "inputs":
                continue  # Reports of earlier releases do not have it.
            if spoil == "drop":
                broken.pop(name)
            elif spoil == "add":
                broken[f"{name}_"] = 1
            elif spoil == "text":
                broken[name] = [{"__class__": ["os.system"]}]
            elif spoil == "nan":
                broken[name] = float("nan")
            else:
                broken["schema"] = f"{name}"
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(broken))
            with pytest.raises(ValueError, match="Expected .*Received: "):
                cls.load(path)
