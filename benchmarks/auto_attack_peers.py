"""Robust accuracy by AutoAttack, here and in the authors' code for PyTorch, on unlike networks.

    python -m benchmarks.auto_attack_peers --data_dir=DIR --torch_python=PYTHON

Small networks that differ in kind, or in the ball, are trained with PGD on MNIST and Fashion-MNIST
for so short that robust accuracy is far from 0 and from 100. `evaluate` attacks the first test
images with AutoAttack standard, and the authors' code (the package pyautoattack, in a Python with
torch) attacks the same weights on the same images. Before it does, the logits of both must agree to
1e-4. The authors' code gets what it is made for:

- softmax_head: the logits. `evaluate` gets the probabilities, and looks for the logits itself.
- inputs_to_255: images up to 1, which a layer multiplies by 255, and the radius divided by 255.
- three_classes: their code stops, because the targeted DLR loss takes four logits. The row has the
  error, and what their other attacks leave.

Two runs of random attacks may differ by an image; "only_here" are the images that only `evaluate`
breaks, and "only_there" those that only the authors' code breaks. The seconds are no comparison of
speed. Rows of the same settings that the output has already are kept.
"""

import collections
import json
import os
import pathlib
import subprocess
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_robust as kr
from benchmarks import auto_attack_networks as networks
from benchmarks import results
from keras_robust import models

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets.")
_TORCH = flags.DEFINE_string("torch_python", None, "A Python with torch and pyautoattack.")
_EXAMPLES = flags.DEFINE_integer("num_examples", 200, "Test images to attack.")
_ONLY = flags.DEFINE_list("only", None, "Rows to run, such as mnist/gelu; all by default.")
_TRAIN_ONLY = flags.DEFINE_bool("train_only", False, "Train, and attack with PGD-20 only.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/auto_attack_peers", "Folder for the networks.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file. Default: in results.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TRAINING = {"examples": 12800, "epochs": 4, "batch_size": 128, "learning_rate": 2e-3, "seed": 0}
_STEPS = 5

Row = collections.namedtuple("Row", "build, torch_name, balls, labels", defaults=(range(10),))
_LINF = {"mnist": kr.Linf(0.2), "fashion_mnist": kr.Linf(0.1)}
ROWS = {
    "batch_norm_residual": Row(networks.residual, "residual", _LINF),
    "softmax_head": Row(lambda: networks.convolutional(head="softmax"), "convolutional", _LINF),
    "inputs_to_255": Row(
        lambda: networks.convolutional(scale=255.0),
        "rescaled",
        {"mnist": kr.Linf(51, (0, 255)), "fashion_mnist": kr.Linf(25.5, (0, 255))},
    ),
    "attention": Row(networks.attention, "attention", _LINF),
    "gelu": Row(lambda: networks.convolutional("gelu"), "gelu", _LINF),
    "l2": Row(
        networks.convolutional, "convolutional", {"mnist": kr.L2(1.5), "fashion_mnist": kr.L2(1.0)}
    ),
    "l1": Row(
        networks.convolutional, "convolutional", {"mnist": kr.L1(10), "fashion_mnist": kr.L1(8)}
    ),
    "three_classes": Row(
        lambda: networks.convolutional(classes=3),
        "convolutional",
        {"mnist": kr.Linf(0.3), "fashion_mnist": kr.Linf(0.1)},
        # Two of them are alike in both data sets: 4 and 9, coat and shirt.
        labels=(4, 6, 9),
    ),
}


def examples(part, row, ball, count):
    """Returns the first images with the labels of a row, in the range of its ball, and classes."""
    x, y = part
    kept = np.flatnonzero(np.isin(y, row.labels))[:count]
    return x[kept] * np.float32(ball.bounds[1]), np.searchsorted(row.labels, y[kept])


def trained(name, row, data, ball):
    """Returns the network, read where it was trained before."""
    path = pathlib.Path(_WORK_DIR.value) / f"{data.name}_{name}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(_TRAINING["seed"])
    model = row.build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name != "softmax_head")
    optimizer = keras.optimizers.Adam(_TRAINING["learning_rate"])
    model.compile(optimizer, loss, metrics=["accuracy"])
    adv_train = kr.AdvTrain(ball, attack=kr.attacks.PGD(num_steps=_STEPS), warmup="20%")
    shared = {"epochs": _TRAINING["epochs"], "batch_size": _TRAINING["batch_size"], "verbose": 2}
    x, y = examples(data.train, row, ball, _TRAINING["examples"])
    model.fit(x, y, callbacks=[adv_train], **shared)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def ours(model, x, y, ball):
    """Returns what `evaluate` finds."""
    report = kr.evaluate(model, (x, y), ball, minimum_norm=None)
    return {
        "clean": report.clean_accuracy,
        "robust": report.robust_accuracy,
        "seconds": round(sum(attack.seconds for attack in report.attacks), 1),
        "left": {attack.label: attack.accuracy_so_far for attack in report.attacks},
        "which": report.attacks[-1].robust.tolist(),
    }


def theirs(model, row, x, y, ball):
    """Returns what the authors' code finds, on images up to 1."""
    scale = ball.bounds[1]
    with tempfile.TemporaryDirectory() as folder:
        task, answer = pathlib.Path(folder) / "task.npz", pathlib.Path(folder) / "answer.json"
        np.savez(
            task,
            network=row.torch_name,
            norm=type(ball).__name__,
            epsilon=ball.epsilon / scale,
            x=x / np.float32(scale),
            y=y,
            logits=models.predict_logits(model, x),
            **{f"weight_{i}": value for i, value in enumerate(model.get_weights())},
        )
        command = [_TORCH.value, "-m", "benchmarks.torch_auto_attack", str(task), str(answer)]
        subprocess.run(command, check=True, cwd=_ROOT)
        return json.loads(answer.read_text(encoding="utf-8"))


def compare(model, row, x, y, ball):
    """Returns a row of the result."""
    here, there = ours(model, x, y, ball), theirs(model, row, x, y, ball)
    which = np.array(here.pop("which")), np.array(there.pop("which"))
    return {
        "threat_model": repr(ball),
        "weights": model.count_params(),
        "keras_robust": here,
        "authors": there,
        "difference_in_points": round(100.0 * (here["robust"] - there["robust"]), 3),
        "only_here": np.flatnonzero(which[1] & ~which[0]).tolist(),
        "only_there": np.flatnonzero(which[0] & ~which[1]).tolist(),
    }


def main(_):
    settings = {"num_examples": _EXAMPLES.value, "training": {**_TRAINING, "pgd_steps": _STEPS}}
    output = _OUTPUT.value or _ROOT / "benchmarks" / "results" / "auto_attack_peers.json"
    result = results.load(output, settings)
    done = result["rows"]
    result["command"] = (
        "python -m benchmarks.auto_attack_peers --data_dir=DIR --torch_python=PYTHON"
    )
    for data_name in ("mnist", "fashion_mnist"):
        data = kr.datasets.load(data_name, data_dir=_DATA_DIR.value)
        for name, row in ROWS.items():
            key, ball = f"{data_name}/{name}", row.balls[data_name]
            if key in done or (_ONLY.value and key not in _ONLY.value):
                continue
            model = trained(name, row, data, ball)
            x, y = examples(data.test, row, ball, _EXAMPLES.value)
            if _TRAIN_ONLY.value:
                attack = kr.attacks.PGD(num_steps=20, loss="margin")
                report = kr.evaluate(model, (x, y), ball, attack, minimum_norm=None)
                print(key, report.clean_accuracy, report.robust_accuracy, flush=True)
                continue
            done[key] = compare(model, row, x, y, ball)
            results.save(output, result)
            print(key, done[key], flush=True)


if __name__ == "__main__":
    app.run(main)
