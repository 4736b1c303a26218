"""The PyTorch side of `benchmarks.minimum_norm`; runs where keras_robust is not installed."""

import json
import pathlib
import sys
import time

import foolbox
import numpy as np
import torch
from adv_lib import attacks

_INFINITY = float("inf")
_NORMS = {"L0": 0, "L1": 1, "L2": 2, "Linf": _INFINITY}


def build(weights, size):
    """Returns the network of `benchmarks.minimum_norm` with the weights of Keras."""
    side = (size - 2) // 2
    features = side * side * 32
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(features, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )
    # Keras flattens (row, column, channel), PyTorch (channel, row, column).
    dense = weights[4].reshape(side, side, 32, 64).transpose(2, 0, 1, 3).reshape(features, 64)
    values = [
        weights[0].transpose(3, 2, 0, 1),
        weights[1],
        weights[2].transpose(3, 2, 0, 1),
        weights[3],
        dense.T,
        weights[5],
        weights[6].T,
        weights[7],
    ]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
            parameter.requires_grad_(False)
    return network.eval()


def of_foolbox(num_steps):
    """Returns functions `(network, x, y) -> x_adv` by norm and name."""
    classes = {
        ("L0", "FMN"): foolbox.attacks.L0FMNAttack,
        ("L1", "FMN"): foolbox.attacks.L1FMNAttack,
        ("L2", "FMN"): foolbox.attacks.L2FMNAttack,
        ("L2", "DDN"): foolbox.attacks.DDNAttack,
        ("Linf", "FMN"): foolbox.attacks.LInfFMNAttack,
    }

    def make(attack):
        def run(network, x, y):
            wrapped = foolbox.PyTorchModel(network, bounds=(0, 1))
            return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=None)[1]

        return run

    return {
        (norm, f"foolbox {name}"): make(attack(steps=num_steps))
        for (norm, name), attack in classes.items()
    }


def of_adversarial_library(num_steps):
    """Returns functions `(network, x, y) -> x_adv` by norm and name."""

    def make(attack, **arguments):
        return lambda network, x, y: attack(network, x, y, **arguments)

    found = {
        ("L0", "SigmaZero"): make(attacks.sigma_zero, num_steps=num_steps),
        ("L2", "DDN"): make(attacks.ddn, steps=num_steps, levels=None),
    }
    for norm, order in _NORMS.items():
        # Their step is for L2; 10 is that of the paper in Linf.
        step = 10.0 if norm == "Linf" else 1.0
        found[norm, "FMN"] = make(attacks.fmn, norm=order, steps=num_steps, α_init=step)
        # The authors prefer the operator of the norm 2/3 in L0.
        operator = {"proximal_operator": 23} if norm == "L0" else {}
        found[norm, "PDPGD"] = make(attacks.pdpgd, norm=order, num_steps=num_steps, **operator)
        if norm in ("L1", "L2"):
            found[norm, "ALMA"] = make(attacks.alma, distance=norm.lower(), num_steps=num_steps)
    return {(norm, f"adv-lib {name}"): run for (norm, name), run in found.items()}


def row(network, x, y, norm, run):
    """Returns the distances of one attack, infinity where it found no mistake, and seconds."""
    start = time.perf_counter()
    x_adv = run(network, x, y).detach()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        wrong = network(x_adv).argmax(1) != y
    in_box = (x_adv.flatten(1).amin(1) >= -1e-6) & (x_adv.flatten(1).amax(1) <= 1.0 + 1e-6)
    distances = torch.linalg.vector_norm((x_adv - x).flatten(1), ord=_NORMS[norm], dim=1)
    distances = torch.where(wrong & in_box, distances, torch.full_like(distances, _INFINITY))
    return {"distances": distances.tolist(), "seconds": round(seconds, 1)}


def rows_of(arrays, name):
    """Returns the rows of all attacks on one network."""
    x = torch.from_numpy(arrays[f"{name}/x"].transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(arrays[f"{name}/y"].astype("int64"))
    network = build([arrays[f"{name}/weight_{i}"] for i in range(8)], x.shape[-1])
    num_steps, rows = int(arrays["num_passes"]), []
    for (norm, attack), run in {
        **of_foolbox(num_steps),
        **of_adversarial_library(num_steps),
    }.items():
        found = row(network, x, y, norm, run)
        place = {"network": name, "norm": norm, "name": attack}
        rows.append({**place, "queries": 2.0 * num_steps, **found})
    return rows


def main(task, answer):
    """Attacks the networks in a file, and writes what each attack found to another."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arrays, rows = np.load(task, allow_pickle=False), []
    for name in arrays["networks"].tolist():
        rows += rows_of(arrays, name)
        print("torch", name, flush=True)
    pathlib.Path(answer).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
