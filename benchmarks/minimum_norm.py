"""How near the minimum-norm attacks come, here and in Foolbox and adversarial-library.

    python -m benchmarks.minimum_norm
    python -m benchmarks.minimum_norm --torch_python=PYTHON

Trains five small networks by different objectives, on the digits of scikit-learn or with
--dataset=fashion_mnist --data_dir=DIR, and attacks the first test images that each classifies
correctly. With --torch_python, a Python that has torch, foolbox and adv-lib, the same networks are
attacked there as well. Every attack may compute --num_passes gradients for an image: one gradient
costs two queries, a forward pass one, and ours spend what is left on the way back to the boundary.

The measure is the local optimality of AttackBench (Cina et al., 2024, arXiv:2404.19460): the area
between the curve of the attack, the accuracy left at each distance, and the curve of the nearest
mistake that any attack found, up to where that reaches 0. It is 1 for the attack that is best on
every image, and 0 for an attack that finds nothing. "area" is the area between the two curves.

Networks and distances are kept in --work_dir, and a run that was cut off goes on there.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_robust as kr
from benchmarks import results

_DATASET = flags.DEFINE_string("dataset", "digits", "Data set: digits, or a name of TFDS.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared data set.")
_EXAMPLES = flags.DEFINE_integer("num_examples", 100, "Test images to attack.")
_PASSES = flags.DEFINE_integer("num_passes", 100, "Gradients for each image and attack.")
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs of the trainings.")
_TORCH = flags.DEFINE_string("torch_python", None, "A Python with torch, foolbox and adv-lib.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/minimum_norm", "Folder of networks and parts.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file. Default: in results.")

_PEER = pathlib.Path(__file__).parent / "torch_minimum_norm.py"
_LINF, _L2 = kr.Linf(0.1), kr.L2(0.6)
_TRAININGS = {
    "clean": (_LINF, "clean"),
    "adversarial_linf": (_LINF, "adversarial"),
    "adversarial_l2": (_L2, "adversarial"),
    "trades_linf": (_LINF, "trades"),
    "input_gradient": (_LINF, "input_gradient"),
}
_NETWORKS = flags.DEFINE_list("networks", list(_TRAININGS), "Which of the five networks.")
_BALLS = {"L0": kr.L0(1), "L1": kr.L1(1.0), "L2": kr.L2(1.0), "Linf": kr.Linf(0.1)}
_NUM_TARGETS = 3
# The way back to the boundary and the judgements of a search, in queries.
_OTHERS = 18


def searches(num_passes):
    """Returns pairs of a norm and an attack by name, all with the same number of queries."""
    num_steps = num_passes - _OTHERS // 2
    # Each target has a way back of its own, and each step one forward pass more.
    fab_steps = (2 * num_passes // _NUM_TARGETS - _OTHERS) // 3
    fab = kr.attacks.TargetedFAB(num_targets=_NUM_TARGETS, num_steps=fab_steps)
    found = {("L0", "SigmaZero"): kr.attacks.SigmaZero(num_steps=num_steps)}
    found["L2", "DDN"] = kr.attacks.DDN(num_steps=num_steps)
    for norm in _BALLS:
        found[norm, "FMN"] = kr.attacks.FMN(num_steps=num_steps)
        if norm != "L0":
            found[norm, "TargetedFAB"] = fab
            found[norm, "PDPGD"] = kr.attacks.PDPGD(num_steps=num_steps)
    return found


def build(data):
    """Returns the network, compiled."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(data.num_classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def train(model, name, data):
    """Trains the network, or reads the weights of an earlier run."""
    path = pathlib.Path(_WORK_DIR.value) / f"{_DATASET.value}_{_EPOCHS.value}_{name}.weights.h5"
    if path.exists():
        model.load_weights(path)
        return
    ball, objective = _TRAININGS[name]
    adv_train = kr.AdvTrain(ball, attack=kr.attacks.PGD(num_steps=7), objective=objective)
    model.fit(*data.train, batch_size=128, epochs=_EPOCHS.value, callbacks=[adv_train], verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)


def networks_of(data):
    """Returns, by name, the accuracy and the weights of every network, and images to attack."""
    found = {}
    for name in _NETWORKS.value:
        keras.utils.set_random_seed(0)
        model = build(data)
        train(model, name, data)
        x, y = data.test
        right = np.flatnonzero(np.argmax(model.predict(x, verbose=0), axis=-1) == y)
        first = right[: _EXAMPLES.value]
        found[name] = {
            "accuracy": round(len(right) / len(y), 4),
            "weights": model.get_weights(),
            "x": x[first],
            "y": y[first],
        }
        print(name, found[name]["accuracy"], flush=True)
    return found


def ours(networks, data, folder):
    """Returns rows of what the attacks of this package found on every network."""
    rows, model = [], build(data)
    for (norm, name), attack in searches(_PASSES.value).items():
        path = folder / f"{norm}_{name}.json"
        if not path.exists():
            ball = _BALLS[norm].with_epsilon(np.float32(np.inf))
            part = []
            for network, task in networks.items():
                # One model for all weights, so that every attack is compiled once.
                model.set_weights(task["weights"])
                start = time.perf_counter()
                found = attack.run(model, task["x"], task["y"], ball, seed=0)
                row = {"network": network, "norm": norm, "name": f"keras_robust {name}"}
                row["distances"] = [float(d) if d < 1e30 else np.inf for d in -found.loss]
                row["queries"] = float(np.mean(found.queries))
                row["seconds"] = round(time.perf_counter() - start, 1)
                part.append(row)
            path.write_text(json.dumps(part), encoding="utf-8")
            print(norm, name, [row["seconds"] for row in part], flush=True)
        rows += json.loads(path.read_text(encoding="utf-8"))
    return rows


def theirs(networks, folder):
    """Returns the same of the other packages."""
    path = folder / "theirs.json"
    if not path.exists():
        arrays = {"num_passes": _PASSES.value, "networks": list(networks)}
        for name, task in networks.items():
            weights = {f"weight_{i}": value for i, value in enumerate(task["weights"])}
            for key, value in {"x": task["x"], "y": task["y"], **weights}.items():
                arrays[f"{name}/{key}"] = value
        with tempfile.TemporaryDirectory() as temporary:
            task = pathlib.Path(temporary) / "task.npz"
            np.savez(task, **arrays)
            subprocess.run([_TORCH.value, str(_PEER), str(task), str(path)], check=True)
    return json.loads(path.read_text(encoding="utf-8"))


def measured(rows, network, norm):
    """Returns the local optimality and more for every attack in one norm on one network."""
    rows = {row["name"]: row for row in rows if (row["network"], row["norm"]) == (network, norm)}
    distances = {label: np.array(row["distances"]) for label, row in rows.items()}
    best = np.min(list(distances.values()), axis=0)
    if not np.all(np.isfinite(best)):
        raise ValueError(f"No attack found a mistake for some images. Received: {best}")
    farthest = float(best.max())
    # The mean of the distances, cut off, is the area below the curve.
    areas = {label: np.mean(np.minimum(one, farthest)) for label, one in distances.items()}
    return {
        label: {
            "optimality": round(float((farthest - area) / (farthest - best.mean())), 4),
            "area": round(float(area - best.mean()), 5),
            "median": round(float(np.median(distances[label])), 5),
            "found": float(np.mean(np.isfinite(distances[label]))),
            "nearest_of_all": float(np.mean(distances[label] <= best * 1.001)),
            "queries": rows[label]["queries"],
        }
        for label, area in areas.items()
    }


def mean_optimality(networks, norm):
    """Returns the mean over the networks for every attack in one norm."""
    labels = next(iter(networks.values()))[norm]
    parts = {label: [one[norm][label] for one in networks.values()] for label in labels}
    return {
        label: round(float(np.mean([part["optimality"] for part in each])), 4)
        for label, each in parts.items()
    }


def main(_):
    data = kr.datasets.load(_DATASET.value, data_dir=_DATA_DIR.value)
    names = ("dataset", "num_examples", "num_passes", "epochs", "networks")
    settings = {name: flags.FLAGS[name].value for name in names}
    setting = "_".join(map(str, [*list(settings.values())[:-1], *_NETWORKS.value]))
    folder = pathlib.Path(_WORK_DIR.value) / setting
    folder.mkdir(parents=True, exist_ok=True)
    networks = networks_of(data)
    rows = ours(networks, data, folder) + (theirs(networks, folder) if _TORCH.value else [])
    parts = {
        network: {"clean_accuracy": networks[network]["accuracy"]}
        | {norm: measured(rows, network, norm) for norm in _BALLS}
        for network in networks
    }
    optimality = {norm: mean_optimality(parts, norm) for norm in _BALLS}
    print(json.dumps(optimality, indent=2))
    command = "python -m benchmarks.minimum_norm --torch_python=PYTHON"
    output = _OUTPUT.value or pathlib.Path(__file__).parent / "results" / "minimum_norm.json"
    results.save(
        output,
        {"command": command, "settings": settings, "optimality": optimality, "networks": parts},
    )


if __name__ == "__main__":
    app.run(main)
