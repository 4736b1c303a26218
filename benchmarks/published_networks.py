"""Proofs by linear bounds for published networks, beside published verdicts.

    python -m benchmarks.published_networks --images=DIR --wong_kolter=FILE --mnistfc=FILE

- `--wong_kolter`: an .npz file with the network of Wong and Kolter (2018) for Fashion-MNIST at
  Linf 0.1 (`conv1_kernel`, `conv1_bias`, ..., `dense2_bias`), `lp_certified`, which of the first
  test images their bound by linear programming proves, and `logits_first_10`, which check the
  images of `--images`. Each certificate is at Linf 0.1.
- `--mnistfc`: an .npz file with the network 256x2 of the benchmark mnistfc of VNN-COMP 2021
  (`kernel_0`, `bias_0`, ..., `x`, `y`, `epsilon`), and the numbers of tools of the competition that
  called each property violated (`tools_sat`) and holding (`tools_unsat`). A verdict counts where at
  least two tools agree and at most one disagrees.

Also solves the linear program over the triangle relaxation for the properties of mnistfc, whose
inner bounds are linear programs too: no choice of slopes can prove more than it does. `Complete`
decides each property, in up to 300 seconds. Rows that the output has already are kept.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_robust as kr
from benchmarks import results
from benchmarks import triangle_relaxation
from keras_robust.datasets import idx

_IMAGES = flags.DEFINE_string("images", None, "Folder of the IDX files of Fashion-MNIST.")
_WONG_KOLTER = flags.DEFINE_string("wong_kolter", None, "File of the network and its verdicts.")
_MNISTFC = flags.DEFINE_string("mnistfc", None, "File of the network and its properties.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "published_networks.json"), "JSON."
)

_METHODS = {
    "interval": lambda radius: kr.certification.Interval(max_radius=radius, num_steps=1),
    "crown": lambda radius: kr.certification.Crown(max_radius=radius, num_steps=0),
    "alpha_crown": lambda radius: kr.certification.AlphaCrown(max_radius=radius, num_steps=0),
    "alpha_crown, inner layers too": lambda radius: kr.certification.AlphaCrown(
        max_radius=radius, num_steps=0, inner_iterations=20
    ),
}
_COMMAND = "python -m benchmarks.published_networks --images=DIR --wong_kolter=FILE --mnistfc=FILE"
_TIME_LIMIT = 300.0  # Seconds for a property, in branch and bound.


def wong_kolter(path):
    """Returns the network of Wong and Kolter, test images, labels and their verdicts."""
    stored = np.load(path, allow_pickle=False)
    verdicts = stored["lp_certified"].astype(bool)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 4, 2, "same", activation="relu"),
            layers.Conv2D(32, 4, 2, "same", activation="relu"),
            layers.Flatten(),
            layers.Dense(100, "relu"),
            layers.Dense(10),
        ]
    )
    names = ("conv1", "conv2", "dense1", "dense2")
    model.set_weights([stored[f"{name}_{kind}"] for name in names for kind in ("kernel", "bias")])
    # The verdicts are in the order of the files, which TensorFlow Datasets shuffles.
    images, labels = (
        part[: len(verdicts)] for part in idx.read("fashion_mnist", _IMAGES.value)["test"]
    )
    x = (images[..., None] / 255.0).astype("float32")
    np.testing.assert_allclose(model(x[:10]), stored["logits_first_10"], rtol=1e-3, atol=1e-3)
    return model, x, labels.astype("int64"), verdicts


def mnistfc(path):
    """Returns the network 256x2 of VNN-COMP, and its properties as a dict of arrays."""
    stored = np.load(path, allow_pickle=False)
    count = sum(name.startswith("kernel") for name in stored)
    sizes = [stored[f"bias_{i}"].size for i in range(count)]
    hidden = [keras.layers.Dense(size, "relu") for size in sizes[:-1]]
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(sizes[-1])])
    model.set_weights([stored[f"{kind}_{i}"] for i in range(count) for kind in ("kernel", "bias")])
    sat, unsat = stored["tools_sat"], stored["tools_unsat"]
    properties = {
        "x": stored["x"].reshape(-1, 784).astype("float32"),
        "y": stored["y"],
        "epsilon": stored["epsilon"].astype("float64"),
        "holds": (unsat >= 2) & (sat <= 1),
        "violated": (sat >= 2) & (unsat <= 1),
    }
    return model, properties


def judge_wong_kolter(method):
    """Returns the row of a certificate for the network of Wong and Kolter."""
    model, x, y, verdicts = wong_kolter(_WONG_KOLTER.value)
    start = time.perf_counter()
    report = kr.certify(model, (x, y), method(0.1), batch_size=50)
    proved = np.equal(report.labels, report.predictions) & (np.array(report.radii) >= 0.1)
    return {
        "examples": len(x),
        "clean": report.clean_accuracy,
        "certified": float(proved.mean()),
        "certified_by_the_authors": float(verdicts.mean()),
        "only_here": int(np.sum(proved & ~verdicts)),
        "only_by_the_authors": int(np.sum(verdicts & ~proved)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def judge_mnistfc(method):
    """Returns the row of a certificate for the properties of mnistfc."""
    model, given = mnistfc(_MNISTFC.value)
    proved, start = np.zeros(len(given["x"]), bool), time.perf_counter()
    for epsilon in np.unique(given["epsilon"]):
        rows = np.nonzero(given["epsilon"] == epsilon)[0]
        report = kr.certify(model, (given["x"][rows], given["y"][rows]), method(float(epsilon)))
        right = np.equal(report.labels, report.predictions)
        proved[rows] = right & (np.array(report.radii) >= epsilon)
    return {**_counts(given, proved), "seconds": round(time.perf_counter() - start, 1)}


def judge_complete():
    """Returns the row of branch and bound for the properties of mnistfc."""
    model, given = mnistfc(_MNISTFC.value)
    proved, broken, seconds = [], [], []
    for x, label, epsilon in zip(given["x"], given["y"], given["epsilon"], strict=True):
        start = time.perf_counter()
        method = kr.certification.Complete(float(epsilon), time_limit=_TIME_LIMIT)
        found = method.certify(model, x[None])
        is_right = found.predictions[0] == label
        proved.append(bool(is_right and found.radii[0] >= epsilon))
        broken.append(bool(not is_right or found.broken_radii[0] <= epsilon))
        seconds.append(round(time.perf_counter() - start, 1))
        print(len(seconds), epsilon, proved[-1], broken[-1], seconds[-1], flush=True)
    broken = np.array(broken)
    return {
        **_counts(given, np.array(proved)),
        "violated": int(np.sum(given["violated"])),
        "broken": int(np.sum(broken)),
        "broken_and_hold": int(np.sum(broken & given["holds"])),
        "inconclusive": np.nonzero(~broken & ~np.array(proved))[0].tolist(),
        "seconds_each": seconds,
        "seconds": round(sum(seconds), 1),
    }


def judge_relaxation():
    """Returns the row of the linear program over the triangle relaxation."""
    model, given = mnistfc(_MNISTFC.value)
    start = time.perf_counter()
    weights = [layer.get_weights() for layer in model.layers]
    rows = zip(given["x"].astype("float64"), given["y"], given["epsilon"], strict=True)
    proved = np.array(
        [
            triangle_relaxation.largest_margin(weights, x, epsilon, label) < 0.0
            for x, label, epsilon in rows
        ]
    )
    return {**_counts(given, proved), "seconds": round(time.perf_counter() - start, 1)}


def _counts(given, proved):
    return {
        "properties": len(proved),
        "hold": int(np.sum(given["holds"])),
        "proved": int(np.sum(proved)),
        "proved_and_violated": int(np.sum(proved & given["violated"])),
        "which": np.nonzero(proved)[0].tolist(),
    }


def main(_):
    result = results.load(
        _OUTPUT.value, {"radius": 0.1, "inner_iterations": 20, "time_limit": _TIME_LIMIT}
    )
    rows = {}
    if _WONG_KOLTER.value:
        rows.update(
            {f"wong_kolter: {name}": (judge_wong_kolter, [make]) for name, make in _METHODS.items()}
        )
    if _MNISTFC.value:
        rows.update(
            {f"mnistfc: {name}": (judge_mnistfc, [make]) for name, make in _METHODS.items()}
        )
        rows["mnistfc: linear program"] = judge_relaxation, []
        rows["mnistfc: complete"] = judge_complete, []
    for name, (judge, arguments) in rows.items():
        if name not in result["rows"]:
            result["rows"][name] = judge(*arguments)
            results.save(_OUTPUT.value, {**result, "command": _COMMAND})
        print(name, result["rows"][name], flush=True)


if __name__ == "__main__":
    app.run(main)
