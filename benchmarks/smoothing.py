"""How long a certificate of randomized smoothing takes, here and in a plain loop in PyTorch.

    python -m benchmarks.smoothing --data_dir=DIR
    python -m benchmarks.smoothing --data_dir=DIR --torch_python=PYTHON

Trains small networks with noise on Fashion-MNIST, and certifies the first test images: here in
float32 and in bfloat16, and with --torch_python, a Python that has torch and statsmodels, by a loop
with the steps of the authors' code (`benchmarks.torch_smoothing`) with the same weights and the
same numbers of copies. The programs take turns on other images in every round, and each has one
thread. What counts is processor time; that of ours holds the tracing, because every round is a new
call. Also counts the votes that bfloat16 changes. Takes some ten minutes; a run that was cut off
goes on where it was.
"""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

# Before Keras is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import keras
import numpy as np
from absl import app
from absl import flags

import keras_robust as kr
from benchmarks import results
from keras_robust.models.dtypes import compute_dtype_scope

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the TFDS data.", required=True)
_SAMPLES = flags.DEFINE_integer("num_samples", 10_000, "Copies of each image.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds of each network.")
_TORCH = flags.DEFINE_string("torch_python", None, "A Python with torch and statsmodels.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "smoothing.json"), "JSON file."
)

_PEER = pathlib.Path(__file__).parent / "torch_smoothing.py"
_STDDEV, _ALPHA = 0.25, 1e-3
# The layers, and the images in a round.
_NETWORKS = {
    "small convolutions": (
        [["convolution", 16, 4, 2], ["convolution", 32, 4, 2], ["dense", 100], ["dense", 10]],
        10,
    ),
    "dense": ([["dense", 256], ["dense", 256], ["dense", 10]], 20),
    "two wide convolutions": (
        [
            *[["convolution", 32, 5, 1], ["pool"], ["convolution", 64, 5, 1], ["pool"]],
            *[["dense", 1024], ["dense", 10]],
        ],
        2,
    ),
}


def build(spec):
    """Returns the network of a list of layers."""
    keras.utils.set_random_seed(0)
    layers, is_flat = [keras.Input((28, 28, 1))], False
    for index, (kind, *numbers) in enumerate(spec):
        activation = "relu" if index < len(spec) - 1 else None
        if kind == "pool":
            layers.append(keras.layers.MaxPooling2D())
        elif kind == "convolution":
            layers.append(keras.layers.Conv2D(*numbers, padding="same", activation=activation))
        else:
            layers += [] if is_flat else [keras.layers.Flatten()]
            is_flat = True
            layers.append(keras.layers.Dense(*numbers, activation=activation))
    return keras.Sequential(layers)


def trained(spec, data):
    """Returns the network after an epoch with noise."""
    model = build(spec)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    noisy = kr.AdvTrain(objective=kr.objectives.GaussianNoise(_STDDEV))
    x, y = (part[:20_000] for part in data.train)
    model.fit(x, y, batch_size=128, callbacks=[noisy], verbose=0)
    return model


def certify(model, x, seed, dtype=None):
    """Returns the certificates of ours, and what they took."""
    smoothing = kr.certification.Smoothing(
        _STDDEV, num_samples=_SAMPLES.value, alpha=_ALPHA, dtype=dtype
    )
    start, cpu = time.perf_counter(), time.process_time()
    found = smoothing.certify(model, x, seed=seed)
    seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    pairs = zip(found.predictions.tolist(), found.radii.tolist(), strict=True)
    return {**seconds, "found": list(pairs)}


@contextlib.contextmanager
def peer(spec, model, x):
    """Yields a function of the numbers of images that runs a round of the loop in PyTorch."""
    weights = model.get_weights()
    task = {
        "network": spec,
        "num_weights": len(weights),
        "noise_stddev": _STDDEV,
        "alpha": _ALPHA,
        "num_samples": _SAMPLES.value,
        "selection_samples": 100,
        "torch_batch_size": 1000,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "task.npz"
        named = {f"weight_{index}": value for index, value in enumerate(weights)}
        np.savez(path, task=json.dumps(task), x=x, **named)
        process = subprocess.Popen(
            [_TORCH.value, str(_PEER), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            process.stdout.readline()

            def run(rows):
                process.stdin.write(json.dumps(rows) + "\n")
                process.stdin.flush()
                return json.loads(process.stdout.readline())

            yield run
            process.stdin.close()


def race(spec, model, x, size):
    """Returns what each contestant took and found, in every round."""
    with contextlib.ExitStack() as stack:
        contestants = {
            "float32": lambda rows: certify(model, x[rows], rows[0]),
            "bfloat16": lambda rows: certify(model, x[rows], rows[0], "bfloat16"),
        }
        if _TORCH.value:
            contestants["PyTorch loop"] = stack.enter_context(peer(spec, model, x))
        rounds = {name: [] for name in contestants}
        for start in range(0, _ROUNDS.value * size, size):
            for name, run in contestants.items():
                rounds[name].append(run(list(range(start, start + size))))
    return rounds


def summarize(rounds, size):
    """Returns medians over the rounds, and how far the radii are from those of ours."""
    ours = rounds["float32"]
    summary = {}
    for name, own in rounds.items():
        radii, expected = (
            np.array([radius for one in part for _, radius in one["found"]]) for part in (own, ours)
        )
        pairs = list(zip(own, ours, strict=True))
        summary[name] = {
            "cpu_seconds_per_image": statistics.median(one["cpu"] / size for one in own),
            "seconds_per_image": statistics.median(one["seconds"] / size for one in own),
            "cpu_ratio": statistics.median(one["cpu"] / other["cpu"] for one, other in pairs),
            "seconds_ratio": statistics.median(
                one["seconds"] / other["seconds"] for one, other in pairs
            ),
            "average_radius": float(np.mean(radii)),
            "largest_difference_of_radii": float(np.max(np.abs(radii - expected))),
        }
    return summary


def changed_votes(model, x, copies=500):
    """Returns the share of noisy copies whose class differs between float32 and bfloat16."""
    rng = np.random.default_rng(0)
    changed = []
    for image in x:
        noise = _STDDEV * rng.standard_normal((copies, *image.shape), "float32")
        batch = keras.ops.convert_to_tensor(image + noise)
        classes = np.argmax(model(batch, training=False), axis=-1)
        with compute_dtype_scope(model, "bfloat16"):
            low = np.argmax(np.asarray(model(batch, training=False), "float32"), axis=-1)
        changed.append(np.mean(low != classes))
    return float(np.mean(changed))


def main(_):
    settings = {
        "command": "python -m benchmarks.smoothing --data_dir=DIR --torch_python=PYTHON",
        "num_samples": _SAMPLES.value,
        "selection_samples": 100,
        "noise_stddev": _STDDEV,
        "alpha": _ALPHA,
        "rounds": _ROUNDS.value,
        "with_torch": _TORCH.value is not None,
    }
    result = results.load(_OUTPUT.value, settings)
    data = kr.datasets.load("fashion_mnist", data_dir=_DATA_DIR.value)
    x, y = data.test
    for name, (spec, size) in _NETWORKS.items():
        if name in result["rows"]:
            continue
        model = trained(spec, data)
        accuracy = np.mean(np.argmax(model.predict(x, verbose=0), axis=-1) == y)
        result["rows"][name] = {
            "layers": spec,
            "images": size * _ROUNDS.value,
            "clean_accuracy": float(accuracy),
            "changed_votes": changed_votes(model, x[:200]),
            "contestants": summarize(race(spec, model, x, size), size),
            "load_average": os.getloadavg()[0],
        }
        results.save(_OUTPUT.value, result)
        print(f"{name}: {json.dumps(result['rows'][name], indent=1)}", flush=True)


if __name__ == "__main__":
    app.run(main)
