"""The authors' AutoAttack on networks in a file; runs where keras_robust is not installed.

The PyTorch side of `benchmarks.auto_attack` and `benchmarks.auto_attack_peers`.
"""

import importlib.metadata
import json
import logging
import pathlib
import re
import sys
import time

import numpy as np
import torch
from pyautoattack import AutoAttack

from benchmarks import torch_networks

_BATCH_SIZE = 250
# The targeted DLR loss takes the fourth largest logit, so these are what runs on fewer classes.
_FOR_FEW_CLASSES = ["apgd-ce", "fab-t", "square"]


class Left(logging.Handler):
    """Collects the accuracy that the authors' code logs after each of its attacks, as a dict."""

    def __init__(self):
        super().__init__()
        self.accuracies = {}

    def emit(self, record):
        found = re.match(r"robust accuracy after (\S+): ([\d.]+)%", record.getMessage())
        if found:
            self.accuracies[found[1]] = round(float(found[2]) / 100.0, 6)


def attacked(network, x, y, num_targets=None, **arguments):
    """Returns what the authors' code found."""
    logger, left = logging.getLogger("auto-attack"), Left()
    logger.setLevel(logging.DEBUG)
    logger.handlers = [left]
    attack = AutoAttack(network, device="cpu", seed=0, **arguments)
    if num_targets is not None:
        attack.fab.n_target_classes = num_targets
    start = time.perf_counter()
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=_BATCH_SIZE)
    seconds = round(time.perf_counter() - start, 1)
    is_robust = network(x_adv).argmax(1) == y
    size = torch.linalg.vector_norm(
        (x_adv - x).flatten(1), float(arguments["norm"][1:].lower()), dim=1
    )
    return {
        "robust": float(is_robust.double().mean()),
        "seconds": seconds,
        "left": left.accuracies,
        "largest_norm": float(size.max()),
        "which": is_robust.tolist(),
    }


def main(task, answer):
    """Attacks the network in a file, and writes accuracies and seconds to another."""
    arrays = np.load(task, allow_pickle=False)
    count = sum(name.startswith("weight_") for name in arrays)
    weights = [arrays[f"weight_{i}"] for i in range(count)]
    network = torch_networks.build(str(arrays["network"]), weights)
    x = torch.from_numpy(arrays["x"].transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(arrays["y"].astype("int64"))
    logits = network(x)
    np.testing.assert_allclose(logits.numpy(), arrays["logits"], rtol=0.0, atol=1e-4)
    result = {
        "clean": float((logits.argmax(1) == y).double().mean()),
        "logits_differ_by": float(np.abs(logits.numpy() - arrays["logits"]).max()),
        "versions": {name: importlib.metadata.version(name) for name in ("pyautoattack", "torch")},
    }
    arguments = {"norm": str(arrays["norm"]), "eps": float(arrays["epsilon"])}
    try:
        result |= attacked(network, x, y, version="standard", **arguments)
    except Exception as error:  # noqa: BLE001  What it raises on few classes is a result.
        if logits.shape[1] > 3:
            raise
        result["error"] = f"{type(error).__name__}: {error}"
        arguments |= {"version": "custom", "attacks": _FOR_FEW_CLASSES}
        result |= attacked(network, x, y, num_targets=logits.shape[1] - 1, **arguments)
    pathlib.Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
