"""Certified accuracy on real data, of networks that were trained for the certificate.

    python -m benchmarks.certified_accuracy --data_dir=DIR
    python -m benchmarks.certified_accuracy --only=digits_smoothing,digits_linear --output=FILE

A row is a network on the digits or on Fashion-MNIST, how it is trained, and a certificate:

- smoothing: Gaussian noise of 0.25 in training, randomised smoothing in L2;
- ibp: interval bounds in training and as certificate, Linf 0.1. Epsilon grows to 1.1 times that, as
  in the authors' code, over the first 40% of the steps, while kappa falls to 0.5;
- pgd: adversarial training with PGD-7 at Linf 0.1, about which interval bounds say nothing;
- lipschitz: orthogonal layers and GroupSort, margins in L2;
- linear: exact worst-case training and the exact distance, Linf 0.1.

Each certificate is held against attacks. PGD-50 on all test images and AutoAttack on the first ones
bound robust accuracy at one radius from above, where the certificate bounds it from below. FMN and
FAB look for the nearest mistakes of the first test images: none may be nearer than the certified
radius. The smoothed classifier is attacked by FMN alone, through the mean probabilities of few
copies with fixed noise; a mistake inside the radius counts there only if the certificate, with
noise of its own, says so too.

Published for the same network on Fashion-MNIST, Linf 0.1, first 1,000 test images: 67.6% certified,
78.3% clean, by the training of Wong and Kolter, in https://arxiv.org/abs/1810.07481.

Rows that the output has already, under the same settings, are kept, so that the same command goes
on after a kill; models go to --work_dir. Takes about half an hour on two CPU cores. Draws
certified_accuracy.png beside the JSON, for the images of FMN and FAB.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from benchmarks import certified_networks as networks
from benchmarks import certified_picture
from benchmarks import results
from keras_robust.certification.certificate_report import certified_curve

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared Fashion-MNIST.")
_SAMPLES = flags.DEFINE_integer("num_samples", 10_000, "Noisy copies of an image in smoothing.")
_SMOOTHED = flags.DEFINE_integer("smoothed_examples", 500, "Test images that smoothing certifies.")
_ATTACKED = flags.DEFINE_integer("attacked_examples", 500, "Test images that AutoAttack attacks.")
_NEAREST = flags.DEFINE_integer("nearest_examples", 100, "Test images of FMN and FAB.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, data order, noise and attacks.")
_ONLY = flags.DEFINE_list("only", None, "Names of the rows to run; all by default.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/certified_accuracy", "Folder for the models.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "certified_accuracy.json"), "JSON."
)

_COPIES = 32  # Of an input, where the smoothed classifier is attacked.
_ROUNDING = 1e-5  # By which an attack in float32 may miss the radius of a proof.
_RADII = {"L2": (0.0, 0.25, 0.5, 0.75), "Linf": (0.0, 0.05, 0.1)}


def judge(recipe, model, dataset):
    """Returns what is proven about a model, and what attacks find."""
    is_exact = recipe.method != "smoothing"
    report = kr.certify(
        model,
        dataset.test,
        recipe.method,
        num_examples=None if is_exact else _SMOOTHED.value,
        seed=_SEED.value,
        **recipe.options,
    )
    print(report, flush=True)
    target = networks.without_iterations(model) if is_exact else smoothed(model)
    attacked = attack(recipe, target, dataset, report) if is_exact else None
    return {
        "method": report.method,
        "norm": report.norm,
        "certified_examples": report.num_examples,
        "clean_accuracy": report.clean_accuracy,
        "abstained": report.abstained,
        "certified_accuracy": {
            str(radius): report.certified_accuracy(radius) for radius in _RADII[report.norm]
        },
        "average_radius": report.average_radius,
        "curve": report.curve,
        "certify_seconds": round(report.seconds, 1),
        "attacked": attacked,
        "nearest": nearest(recipe, model, target, dataset, report),
    }


def smoothed(model):
    """Returns logits of the mean probabilities over copies with fixed noise."""
    shape = (1, _COPIES, *model.input_shape[1:])
    noise = networks.SIGMA * np.random.default_rng(_SEED.value).normal(size=shape).astype("float32")

    def logits(x):
        copies = keras.ops.expand_dims(x, 1) + noise
        flat = keras.ops.reshape(copies, (-1, *model.input_shape[1:]))
        each = keras.ops.log_softmax(model(flat, training=False))
        return keras.ops.logsumexp(keras.ops.reshape(each, (-1, _COPIES, each.shape[-1])), axis=1)

    return logits


def attack(recipe, model, dataset, certificate):
    """Returns accuracies under attack at the radius of the row, and the certified ones there."""
    size = min(_ATTACKED.value, certificate.num_examples)
    found = {"threat_model": repr(recipe.ball()), "accuracy": {}, "certified": {}, "examples": {}}
    suites = [("PGD-50", [kr.attacks.PGD(num_steps=50)], None)]
    if recipe.is_proven:
        suites.append(("AutoAttack", "standard", size))
    for name, attacks, number in suites:
        shared = {"num_examples": number, "minimum_norm": None, "seed": _SEED.value}
        report = kr.evaluate(model, dataset.test, recipe.ball(), attacks, **shared)
        print(report, flush=True)
        proven = correct(certificate)[:number] & (radii(certificate)[:number] >= recipe.radius)
        found["accuracy"][name] = report.robust_accuracy
        found["certified"][name] = float(np.mean(proven))
        found["examples"][name] = report.num_examples
    return found


def nearest(recipe, model, target, dataset, certificate):
    """Compares certified radii with the distances of the nearest mistakes that attacks find.

    Args:
        recipe: `Recipe`.
        model: what was certified.
        target: what is attacked.
        dataset: `keras_robust.datasets.Dataset`.
        certificate: `CertificateReport`.

    Returns:
        A dict; `"contradictions"` counts radii that a mistake disproves, of which there is none.
    """
    size = min(_NEAREST.value, certificate.num_examples)
    x, y = (part[:size] for part in dataset.test)
    is_smoothed = recipe.method == "smoothing"
    searches = [kr.attacks.FMN(num_steps=50)]
    if not is_smoothed:
        searches.append(kr.attacks.TargetedFAB(num_targets=3))
    start, free = time.perf_counter(), recipe.ball().with_epsilon(np.inf)
    distances, x_adv = np.full(size, np.inf), x.copy()
    for search in searches:
        found = search.run(target, x, y, free, seed=_SEED.value)
        own = np.where(found.success, -found.loss, np.inf)
        nearer = own < distances
        distances[nearer], x_adv[nearer] = own[nearer], np.asarray(found.x_adv)[nearer]
    right, proven = correct(certificate)[:size], radii(certificate)[:size]
    inside = right & (distances < proven - _ROUNDING)
    contradicted = _confirmed(recipe, model, x_adv, y, inside)
    known = right & np.isfinite(distances)
    return {
        "examples": size,
        "attacks": [repr(search) for search in searches],
        "mistakes_found": int(known.sum()),
        "unconfirmed": int(inside.sum()) if is_smoothed else 0,
        "contradictions": int(contradicted.sum()),
        "median_distance": float(np.median(np.where(right, distances, 0.0))),
        "median_radius": float(np.median(np.where(right, proven, 0.0))),
        "certified_curve": certified_curve(right, proven),
        "curve": kr.evaluation.robustness_curve(np.where(right, distances, 0.0)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _confirmed(recipe, model, x_adv, y, inside):
    """Returns which of some mistakes are mistakes of the classifier that is certified."""
    if recipe.method != "smoothing" or not inside.any():
        return inside
    method = kr.certification.Smoothing(**recipe.options)
    fresh = method.certify(model, x_adv[inside], seed=_SEED.value + 1).predictions
    confirmed = inside.copy()
    confirmed[inside] = (fresh != y[inside]) & (fresh >= 0)
    return confirmed


def correct(certificate):
    """Returns which predictions of a `CertificateReport` are right."""
    return np.equal(certificate.labels, certificate.predictions)


def radii(certificate):
    """Returns the radii of a `CertificateReport` as an array."""
    return np.asarray(certificate.radii)


def show(done):
    """Prints the table."""
    table = Table(title="Certified accuracy in per cent")
    for heading in ("", "images", "norm", "certified at radius", "attacked", "contradictions"):
        table.add_column(heading, no_wrap=not heading)
    for name, row in done.items():
        shares = row["certified_accuracy"].items()
        text = "  ".join(f"{radius}: {100 * share:.1f}" for radius, share in shares)
        found = row["attacked"]
        robust = f"{100 * min(found['accuracy'].values()):.1f}" if found else ""
        against = f"{row['nearest']['contradictions']} of {row['nearest']['mistakes_found']}"
        table.add_row(name, str(row["certified_examples"]), row["norm"], text, robust, against)
    Console().print(table)


def main(_):
    settings = {
        "seed": _SEED.value,
        "num_samples": _SAMPLES.value,
        "noise_stddev": networks.SIGMA,
        "alpha": networks.ALPHA,
        "batch_size": networks.BATCH_SIZE,
        "ibp": {
            "epsilon": networks.TRAINING_FACTOR * networks.EPSILON,
            "kappa": "1 to 0.5",
            "ramp": networks.RAMP,
        },
    }
    output, folder = pathlib.Path(_OUTPUT.value), pathlib.Path(_WORK_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    result = results.load(output, settings)
    done = result["rows"]
    for kind, recipe in networks.recipes(_SAMPLES.value).items():
        for dataset_name, epochs in recipe.epochs.items():
            name = f"{dataset_name}_{kind}"
            if name in done or (_ONLY.value and name not in _ONLY.value):
                continue
            dataset = kr.datasets.load(dataset_name, data_dir=_DATA_DIR.value)
            print(f"{name}:", flush=True)
            path = folder / f"{name}_{epochs}_epochs_seed_{_SEED.value}.keras"
            model, seconds = networks.train(recipe, dataset, path, _SEED.value)
            done[name] = {
                "epochs": epochs,
                "train_seconds": seconds,
                **judge(recipe, model, dataset),
            }
            command = "python -m benchmarks.certified_accuracy --data_dir=DIR"
            results.save(output, {**result, "command": command})
    show(done)
    certified_picture.draw(done, output.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
