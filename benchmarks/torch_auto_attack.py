"""The PyTorch side of `benchmarks.auto_attack`; runs where keras_robust is not installed."""

import json
import pathlib
import sys
import time

import numpy as np
import torch
from pyautoattack import AutoAttack


def build(weights):
    """Returns the network of `benchmarks.turns.build` with the weights of Keras."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(3136, 1024),
        torch.nn.ReLU(),
        torch.nn.Linear(1024, 10),
    )
    kernels = [
        weights[0].transpose(3, 2, 0, 1),
        weights[1],
        weights[2].transpose(3, 2, 0, 1),
        weights[3],
        # Keras flattens (row, column, channel), PyTorch (channel, row, column).
        weights[4].reshape(7, 7, 64, 1024).transpose(2, 0, 1, 3).reshape(3136, 1024).T,
        weights[5],
        weights[6].T,
        weights[7],
    ]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), kernels, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return network.eval()


def main(task, answer):
    """Attacks the network in a file, and writes accuracies and seconds to another."""
    arrays = np.load(task, allow_pickle=False)
    weights = [arrays[f"weight_{i}"] for i in range(8)]
    network = build(weights)
    x = torch.from_numpy(arrays["x"].transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(arrays["y"].astype("int64"))
    attack = AutoAttack(
        network, norm="Linf", eps=float(arrays["epsilon"]), version="standard", device="cpu", seed=0
    )
    with torch.no_grad():
        clean = float((network(x).argmax(1) == y).float().mean())
    start = time.perf_counter()
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=250)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        robust = float((network(x_adv).argmax(1) == y).float().mean())
    result = {"clean": clean, "robust": robust, "seconds": round(seconds, 1)}
    pathlib.Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
