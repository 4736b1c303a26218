"""The PyTorch side of `benchmarks.smoothing`; runs where keras_robust is not installed.

The loop has the steps of the published one: batches of repeated inputs with fresh noise, classes
that are counted in Python, and the bound of statsmodels. It runs a round for each line of input.
"""

import json
import sys
import time

import numpy as np
import torch
from scipy import stats
from statsmodels.stats.proportion import proportion_confint


def build(spec, weights):
    """Returns the network of `benchmarks.smoothing.build` with the weights of Keras."""
    layers, shape, weights = [], (1, 28, 28), iter(weights)
    for kind, *numbers in spec:
        if kind == "pool":
            layers.append(torch.nn.MaxPool2d(2))
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
            continue
        kernel, bias = next(weights), next(weights)
        if kind == "convolution":
            filters, size, stride = numbers
            padding = (size - stride) // 2
            layer = torch.nn.Conv2d(shape[0], filters, size, stride, padding)
            shape = (filters, shape[1] // stride, shape[2] // stride)
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            if len(shape) == 3:
                layers.append(torch.nn.Flatten())
                # Keras flattens (row, column, channel), PyTorch (channel, row, column).
                kernel = kernel.reshape(*shape[1:], shape[0], -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(int(np.prod(shape)), -1).T
            shape = kernel.shape[:1]
            layer = torch.nn.Linear(*kernel.shape[::-1])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.from_numpy(bias))
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def count_votes(network, x, number, stddev, batch_size, num_classes=10):
    """Returns the votes of a number of noisy copies by class."""
    counts = np.zeros(num_classes, dtype=int)
    with torch.no_grad():
        while number > 0:
            size = min(batch_size, number)
            number -= size
            copies = x.repeat((size, 1, 1, 1))
            chosen = network(copies + torch.randn_like(copies) * stddev).argmax(1)
            for index in chosen.numpy():
                counts[index] += 1
    return counts


def radius_of(network, x, task):
    """Returns the class and the certified radius of an input, or -1 and 0."""
    stddev, size = task["noise_stddev"], task["torch_batch_size"]
    chosen = count_votes(network, x, task["selection_samples"], stddev, size).argmax()
    count = count_votes(network, x, task["num_samples"], stddev, size)[chosen]
    low = proportion_confint(count, task["num_samples"], 2 * task["alpha"], method="beta")[0]
    return (int(chosen), stddev * stats.norm.ppf(low)) if low > 0.5 else (-1, 0.0)


def main(path):
    """Answers each line, the numbers of the inputs, with their radii and the seconds."""
    arrays = np.load(path, allow_pickle=False)
    task = json.loads(str(arrays["task"]))
    weights = [arrays[f"weight_{index}"] for index in range(task["num_weights"])]
    network = build(task["network"], weights)
    x = torch.from_numpy(arrays["x"].transpose(0, 3, 1, 2).copy())
    # The first pass is not timed.
    count_votes(network, x[0], task["torch_batch_size"], 0.1, task["torch_batch_size"])
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        found = [radius_of(network, x[row], task) for row in json.loads(line)]
        seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        print(json.dumps({**seconds, "found": found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
