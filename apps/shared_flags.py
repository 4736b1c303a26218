"""The flags that several programs share, and the objects they stand for."""

from absl import flags

import keras_robust as kr
from keras_robust import datasets

# The flags belong to the program that asks for them, and show in its --help.
flags.disclaim_key_flags()

# Radii that the literature uses on these data sets, for inputs in [0, 1].
_USUAL_LINF = {"digits": "0.15", "mnist": "0.3", "fashion_mnist": "0.1"}
_MAX_SEED = 2**31 - 1


def define_data():
    """Defines --dataset, --data_dir, --batch_size and --seed."""
    flags.DEFINE_string(
        "dataset",
        "digits",
        "Data set: 'digits' (embedded), or the name of any image data set of TensorFlow Datasets.",
    )
    flags.DEFINE_string("data_dir", None, "Folder of the prepared TensorFlow data sets.")
    flags.DEFINE_integer("batch_size", 32, "Examples in a batch.", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of weights, data order and attacks.",
        lower_bound=0,
        upper_bound=_MAX_SEED,
    )


def define_threat_model():
    """Defines --threat_model and --epsilon."""
    names = ["l1", "l2", "linf"]
    flags.DEFINE_enum("threat_model", "linf", names, "Norm that bounds the perturbation.")
    flags.DEFINE_string(
        "epsilon",
        None,
        "Radius for inputs in [0, 1]: a number or a fraction such as 8/255. Default: what is usual "
        "for the data set (linf: digits 0.15, mnist 0.3, fashion_mnist 0.1, others 8/255).",
    )


def define_evaluation():
    """Defines the strength of the final attacks."""
    flags.DEFINE_integer(
        "evaluation_steps", 50, "Steps of the PGD attacks that judge the model.", lower_bound=1
    )
    flags.DEFINE_integer("evaluation_restarts", 10, "Restarts of these attacks.", lower_bound=1)
    flags.DEFINE_integer(
        "evaluation_examples", None, "Attack only the first so many test examples.", lower_bound=1
    )


def define_training():
    """Defines how long and how fast to train, and where checkpoints and results go."""
    flags.DEFINE_integer("epochs", 30, "Epochs of each training.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 2e-3, "Learning rate of Adam.", lower_bound=1e-9)
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Gradient steps of the training attack. Default: what is usual for the attack.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "warmup",
        "20%",
        "Part of the training over which epsilon grows from 0: a percentage, or optimizer steps.",
    )
    flags.DEFINE_enum(
        "attack_dtype",
        None,
        ["auto", "bfloat16", "float16"],
        "What the training attack computes in; auto: what is fast here. Default: as the model.",
    )
    flags.DEFINE_string(
        "checkpoint_dir", None, "Folder for checkpoints; the same command goes on after a kill."
    )
    flags.DEFINE_string("output_dir", "runs/latest", "Folder for the results.")


def make_threat_model(name, epsilon, dataset_name):
    """Returns the threat model that --threat_model and --epsilon ask for."""
    if epsilon is None and name == "linf":
        epsilon = _USUAL_LINF.get(dataset_name)
    cls = type(kr.threat_models.get(name))
    return cls() if epsilon is None else cls(epsilon)


def make_suite(steps, restarts):
    """Returns PGD of the given strength on two losses: the margin finds what the other hides."""
    return [
        kr.attacks.PGD(num_steps=steps, num_restarts=restarts, loss=loss)
        for loss in ("cross_entropy", "margin")
    ]


def load_dataset(name, data_dir):
    """Returns the data set; see `keras_robust.datasets.load`."""
    return datasets.load(name, data_dir=data_dir)
