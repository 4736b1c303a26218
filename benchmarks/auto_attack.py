"""How long AutoAttack takes, here and in the authors' code for PyTorch, on the same network.

    python -m benchmarks.auto_attack --data_dir=DIR
    python -m benchmarks.auto_attack --data_dir=DIR --num_examples=100 --torch_python=PYTHON

Trains the two-convolution network of the papers with PGD on Fashion-MNIST, and attacks the first
test images with AutoAttack standard, Linf 0.1. With --torch_python, a Python that has torch and
pyautoattack (the authors' code as a package), the same weights are attacked there as well, one
after the other; the ratio of the seconds is that of the two programs on one machine in one run. The
seconds of ours hold the compilation of the attacks. `benchmarks.auto_attack_peers` compares the
robust accuracy of networks that differ in kind.
"""

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
from benchmarks import results
from benchmarks import turns
from keras_robust import models

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared Fashion-MNIST.")
_EXAMPLES = flags.DEFINE_integer("num_examples", 1000, "Test images to attack.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of the training.")
_TORCH = flags.DEFINE_string("torch_python", None, "A Python with torch and pyautoattack.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/auto_attack", "Folder for the trained network.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file. Default: in results.")

_BALL = kr.Linf(0.1)
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def trained(data):
    """Returns the network, read where it was trained before."""
    path = pathlib.Path(_WORK_DIR.value) / f"network_{_EPOCHS.value}_epochs.keras"
    if path.exists():
        return keras.models.load_model(path)
    model = turns.build()
    adv_train = kr.AdvTrain(_BALL, attack=kr.attacks.PGD(num_steps=7), warmup="20%")
    model.fit(*data.train, batch_size=128, epochs=_EPOCHS.value, callbacks=[adv_train], verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def ours(model, x, y):
    """Returns what `evaluate` needs and finds."""
    report = kr.evaluate(model, (x, y), _BALL, minimum_norm=None, verbose=True)
    print(report)
    return {
        "clean": report.clean_accuracy,
        "robust": report.robust_accuracy,
        "seconds": round(sum(attack.seconds for attack in report.attacks), 1),
        "model_calls": report.queries,
        "attacks": {
            attack.label: {
                "seconds": round(attack.seconds, 1),
                "model_calls": attack.queries,
                "left": attack.accuracy_so_far,
            }
            for attack in report.attacks
        },
    }


def theirs(model, x, y):
    """Returns the same of the authors' code."""
    with tempfile.TemporaryDirectory() as folder:
        task, answer = pathlib.Path(folder) / "task.npz", pathlib.Path(folder) / "answer.json"
        weights = {f"weight_{i}": value for i, value in enumerate(model.get_weights())}
        network = {"network": "two_convolutions", "logits": models.predict_logits(model, x)}
        np.savez(task, x=x, y=y, norm="Linf", epsilon=_BALL.epsilon, **network, **weights)
        command = [_TORCH.value, "-m", "benchmarks.torch_auto_attack", str(task), str(answer)]
        subprocess.run(command, check=True, cwd=_ROOT)
        found = json.loads(answer.read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name != "which"}


def main(_):
    data = kr.datasets.load("fashion_mnist", data_dir=_DATA_DIR.value)
    model = trained(data)
    x, y = (part[: _EXAMPLES.value] for part in data.test)
    found = {"keras_robust": ours(model, x, y)}
    if _TORCH.value:
        found["authors"] = theirs(model, x, y)
        found["ratio"] = found["authors"]["seconds"] / found["keras_robust"]["seconds"]
    for name, result in found.items():
        print(name, result)
    name = "auto_attack_peer.json" if _TORCH.value else "auto_attack.json"
    output = _OUTPUT.value or _ROOT / "benchmarks" / "results" / name
    settings = {"num_examples": len(x), "epochs": _EPOCHS.value, "threat_model": repr(_BALL)}
    results.save(output, {"settings": settings, **found})


if __name__ == "__main__":
    app.run(main)
