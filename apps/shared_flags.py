"""Flags that several programs share, and the objects that they describe."""

import fractions

import numpy as np
from absl import flags

import keras_robust as kr
from keras_robust import datasets

from . import names

# The --help of a program lists these flags as its own, not as flags of this module.
flags.disclaim_key_flags()

# Radii that the literature uses on these data sets, for inputs in [0, 1].
_USUAL_LINF = {"digits": "0.15", "mnist": "0.3", "fashion_mnist": "0.1"}
_MAX_SEED = 2**31 - 1  # Random numbers are functions of int32 seeds.
_UNIT = (0.0, 1.0)


def define_data():
    """Defines --dataset, --data_dir, --bounds, --batch_size and --seed."""
    flags.DEFINE_string(
        "dataset",
        "digits",
        "Data set: 'digits' (embedded), or the name of any image data set of TensorFlow Datasets.",
    )
    flags.DEFINE_string("data_dir", None, "Folder of the prepared TensorFlow data sets.")
    flags.DEFINE_list(
        "bounds",
        None,
        "Least and greatest value of a pixel for the model, such as --bounds=0,255: the images are "
        "scaled to these bounds, and all radii are in their units. Default: 0,1.",
    )
    flags.DEFINE_integer("batch_size", 32, "Examples in a batch.", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of the weights, the data order and the attacks.",
        lower_bound=0,
        upper_bound=_MAX_SEED,
    )


def define_threat_model():
    """Defines --threat_model and --epsilon."""
    known = ["l1", "l2", "linf"]
    names.define("threat_model", "linf", known, "Norm that bounds the perturbation.")
    flags.DEFINE_string(
        "epsilon",
        None,
        "Radius in the units of --bounds: a number or a fraction such as 8/255. Default: the usual "
        "radius for the data set (linf: digits 0.15, mnist 0.3, fashion_mnist 0.1, others 8/255), "
        "times the width of the bounds.",
    )


def define_evaluation():
    """Defines the flags for the strength of the final attacks."""
    flags.DEFINE_integer(
        "evaluation_steps", 50, "Steps of the PGD attacks that evaluate the model.", lower_bound=1
    )
    flags.DEFINE_integer("evaluation_restarts", 10, "Restarts of these attacks.", lower_bound=1)
    flags.DEFINE_integer(
        "evaluation_examples", None, "Attack only this number of test examples.", lower_bound=1
    )


def define_training():
    """Defines the flags for the length of a training, its checkpoints and its results."""
    flags.DEFINE_integer("epochs", 30, "Epochs of each training.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 2e-3, "Learning rate of Adam.", lower_bound=1e-9)
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Gradient steps of the training attack. Default: the default of the attack.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "warmup",
        "20%",
        "Part of the training in which epsilon grows from 0: a percentage, or optimizer steps.",
    )
    flags.DEFINE_enum(
        "attack_dtype",
        None,
        ["auto", "bfloat16", "float16"],
        "Dtype of the training attack; auto: a fast one. Default: the dtype of the model.",
    )
    flags.DEFINE_string(
        "checkpoint_dir",
        None,
        "Folder for checkpoints, from which the same command resumes after a kill.",
    )
    flags.DEFINE_string("output_dir", "runs/latest", "Folder for the results.")


def parse_bounds(values):
    """Returns --bounds, a list of two str, as a pair of floats; (0, 1) for `None`."""
    if values is None:
        return _UNIT
    try:
        low, high = (float(fractions.Fraction(value.strip())) for value in values)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(
            "Expected the least and the greatest value of a pixel, such as --bounds=0,255. "
            f"Received: --bounds={','.join(values)}"
        ) from error
    if not low < high:
        raise ValueError(
            "Expected the least value of a pixel before the greatest, such as --bounds=0,255. "
            f"Received: --bounds={','.join(values)}"
        )
    return low, high


def make_threat_model(name, epsilon, dataset_name, bounds=_UNIT):
    """Returns the threat model for the values of --threat_model, --epsilon and --bounds."""
    cls = type(kr.threat_models.get(name))
    if epsilon is not None:
        return cls(epsilon, bounds)
    usual = _USUAL_LINF.get(dataset_name) if name == "linf" else None
    usual = cls().get_config()["epsilon"] if usual is None else usual
    if all(map(np.array_equal, bounds, _UNIT)):
        return cls(usual)
    # Fractions avoid rounding: 8/255 times 255 must be exactly 8.
    low, high = map(fractions.Fraction, bounds)
    return cls(float(fractions.Fraction(usual) * (high - low)), bounds)


def make_suite(steps, restarts):
    """Returns PGD on two losses, because the margin finds errors that the cross-entropy hides."""
    return [
        kr.attacks.PGD(num_steps=steps, num_restarts=restarts, loss=loss)
        for loss in ("cross_entropy", "margin")
    ]


def load_dataset(name, data_dir, bounds=_UNIT):
    """Returns the data set of `keras_robust.datasets.load`, with images scaled to the bounds."""
    dataset = datasets.load(name, data_dir=data_dir)
    if bounds == _UNIT:
        return dataset
    parts = {part: getattr(dataset, part) for part in ("train", "validation", "test")}
    return dataset._replace(**{part: (_scaled(x, *bounds), y) for part, (x, y) in parts.items()})


def _scaled(x, low, high):
    # Rounding may put a value just outside of the bounds, which attacks and guards refuse.
    return np.clip(low + x * (high - low), low, high).astype("float32")
