"""Defences that are known not to hold: does the evaluation see through them?

    python -m benchmarks.negative_controls --data_dir=DIR
    python -m benchmarks.negative_controls --quick

Every row is a small network without adversarial training behind something that hides or bends its
gradients: a saturated softmax, an input transformation (with a BPDA gradient, and raw, with a zero
gradient), logit pairing and squeezing, one-step training without a random start. It is judged by
PGD-50 on the cross-entropy alone and by the standard suite; what is robust for the first and not
for the second was never robust. Failed are the checks of the report of the suite, and those of
`sanity_check` with the undefended model as surrogate. Logit pairing and squeezing add noise of 0.5
and are judged at the radius of the papers that refuted them; one-step training runs at a radius at
which it overfits to its one step. Rows of the same
settings that the output has already are kept, so that the same command goes on after a kill; models
go to --work_dir. With --quick everything is on the digits, to see that it works.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app
from absl import flags
from keras import ops
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from apps import models
from benchmarks import results

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared Fashion-MNIST.")
_QUICK = flags.DEFINE_bool("quick", False, "The digits, few examples, another output.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of every training. Default: 2, quick 15.")
_EXAMPLES = flags.DEFINE_integer("num_examples", None, "Attacked. Default: 200, quick 50.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a batch of the training.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, data order and attacks.")
_ONLY = flags.DEFINE_list("only", None, "Names of the rows to run; all by default.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/negative_controls", "Folder for the models.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file. Default: in results; quick, --work_dir.")

_EPSILON = {"fashion_mnist": 0.1, "digits": 0.2}
_LARGE_EPSILON = {"fashion_mnist": 0.3, "digits": 0.5}
_ONE_STEP = "fgsm_training"
_LEARNING_RATE = 1e-3
_TEMPERATURE = 100.0
_PGD = kr.attacks.PGD(num_steps=50, loss="cross_entropy")
_TRANSFORMATIONS = {
    "bit_depth": (kr.layers.BitDepth, {"bits": 3}),
    "jpeg": (kr.layers.JPEG, {"quality": 75}),
    "thermometer": (kr.layers.Thermometer, {"levels": 16}),
}
_OBJECTIVES = {
    "clean_logit_pairing": {"objective": "clean_logit_pairing"},
    "logit_squeezing": {"objective": "logit_squeezing"},
}


@keras.saving.register_keras_serializable(package="benchmarks")
def saturated_softmax(z):
    """A softmax that Keras does not know as one, so that nobody finds the logits before it."""
    return ops.softmax(_TEMPERATURE * z)


class Study:
    """Trains the rows; several are made of the weights of one training.

    Args:
        dataset: `keras_robust.datasets.Dataset`.
        epochs: int.
        threat_models: pair of `ThreatModel`, the usual one, and a large one for logit pairing,
            squeezing and one-step training.
        folder: `pathlib.Path`, for the trained models.
    """

    def __init__(self, dataset, epochs, threat_models, folder):
        self.dataset, self.epochs, self.folder = dataset, epochs, folder
        self.threat_model, self.large_threat_model = threat_models

    def rows(self):
        """Returns, by name, functions that return a compiled model."""
        table = {
            "undefended": lambda: self.trained("undefended"),
            "distillation_100": self.distilled,
            "logits_times_100": lambda: self.hidden(kr.layers.Temperature(1.0 / _TEMPERATURE)),
            "saturated_softmax": lambda: self.hidden(keras.layers.Activation(saturated_softmax)),
        }
        for name in _TRANSFORMATIONS:
            table[name] = lambda name=name: self.transformed(name, bpda=True)
            table[f"{name}_raw"] = lambda name=name: self.transformed(name, bpda=False)
        for name, arguments in _OBJECTIVES.items():
            table[name] = lambda name=name, arguments=arguments: self.trained(name, arguments)
        table[_ONE_STEP] = lambda: self.trained(_ONE_STEP, {"attack": "fgsm"})
        return table

    def ball(self, name):
        """Returns the threat model that a row is trained and judged under."""
        is_large = name == _ONE_STEP or name in _OBJECTIVES
        return self.large_threat_model if is_large else self.threat_model

    def trained(self, name, arguments=None, *, front=None, loss=None):
        """Returns a model that is trained, or read where that was done before."""
        path = self.folder / f"{name}.keras"
        if path.exists():
            return keras.models.load_model(path)
        print(f"Training {name}:", flush=True)
        keras.utils.set_random_seed(_SEED.value)
        model = self.network(front)
        _compile(model, loss)
        arguments = arguments or {"objective": "clean"}
        adv_train = kr.AdvTrain(self.ball(name), seed=_SEED.value, **arguments)
        model.fit(
            *self.dataset.train,
            batch_size=_BATCH_SIZE.value,
            epochs=self.epochs,
            callbacks=[adv_train],
            verbose=2,
        )
        model.save(path)
        return model

    def network(self, front=None):
        """Returns the small network, behind a layer if there is one."""
        inputs = keras.Input(self.dataset.input_shape, name="images")
        x = inputs if front is None else front(inputs)
        return keras.Model(inputs, models.small_cnn(x.shape[1:], self.dataset.num_classes)(x))

    def distilled(self):
        """Returns the student of a teacher, both at the temperature."""
        loss = kr.losses.TemperatureCrossEntropy(_TEMPERATURE)
        teacher = self.trained("teacher", loss=loss)
        objective = kr.objectives.DefensiveDistillation(teacher, _TEMPERATURE)
        return self.trained("distillation_100", {"objective": objective})

    def hidden(self, layer):
        """Returns the undefended network with a layer behind it that saturates the softmax."""
        plain = self.trained("undefended")
        model = keras.Model(plain.inputs, layer(plain.outputs[0]))
        is_probability = isinstance(layer, keras.layers.Activation)
        _compile(model, keras.losses.SparseCategoricalCrossentropy(from_logits=not is_probability))
        return model

    def transformed(self, name, *, bpda):
        """Returns the network behind a transformation; raw it has the weights of the other."""
        cls, arguments = _TRANSFORMATIONS[name]
        model = self.trained(name, front=cls(**arguments))
        if bpda:
            return model
        raw = self.network(cls(**arguments, bpda=False))
        raw.set_weights(model.get_weights())
        _compile(raw)
        return raw


def _compile(model, loss=None):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_LEARNING_RATE), loss, metrics=["accuracy"])


def judge(model, dataset, threat_model, num_examples, surrogate):
    """Returns the accuracies of a model, as shares of the attacked examples, and failed checks."""
    start = time.perf_counter()
    shared = {"num_examples": num_examples, "seed": _SEED.value}
    alone = kr.evaluate(model, dataset.test, threat_model, [_PGD], minimum_norm=None, **shared)
    suite = kr.evaluate(model, dataset.test, threat_model, "standard", **shared)
    sanity = kr.sanity_check(
        model, dataset.test, threat_model, seed=_SEED.value, surrogate=surrogate
    )
    return {
        "clean": suite.clean_accuracy,
        "pgd_cross_entropy": alone.robust_accuracy,
        "standard": suite.robust_accuracy,
        "epsilon": float(threat_model.epsilon),
        "failed_checks": {"evaluate": _failed(suite), "sanity_check": _failed(sanity)},
        "seconds": round(time.perf_counter() - start, 1),
    }


def _failed(report):
    return [check.name for check in report.checks if check.verdict == "failed"]


def show(done, settings):
    """Prints the table."""
    title = "{dataset}, {threat_model}, {epochs} epochs, {examples} examples, accuracy in per cent"
    table = Table(title=title.format(**settings))
    for heading in ("", "clean", "PGD-50", "standard"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_column("failed in evaluate; in sanity_check", overflow="fold")
    for name, row in done.items():
        figures = [f"{100 * row[key]:.1f}" for key in ("clean", "pgd_cross_entropy", "standard")]
        failed = "; ".join(
            ", ".join(row["failed_checks"][key]) or "none" for key in ("evaluate", "sanity_check")
        )
        table.add_row(name, *figures, failed)
    Console().print(table)


def main(_):
    quick = _QUICK.value
    name = "digits" if quick else "fashion_mnist"
    threat_models = kr.Linf(_EPSILON[name]), kr.Linf(_LARGE_EPSILON[name])
    epochs = _EPOCHS.value or (15 if quick else 2)
    # Models are read again, but never those of other settings.
    trained = f"{name}_{epochs}_epochs_batch_{_BATCH_SIZE.value}_seed_{_SEED.value}"
    folder = pathlib.Path(_WORK_DIR.value) / trained
    usual = pathlib.Path(__file__).parent / "results" / "negative_controls.json"
    output = pathlib.Path(_OUTPUT.value or (folder / "quick.json" if quick else usual))
    settings = {
        "dataset": name,
        "epochs": epochs,
        "examples": _EXAMPLES.value or (50 if quick else 200),
        "batch_size": _BATCH_SIZE.value,
        "seed": _SEED.value,
        "learning_rate": _LEARNING_RATE,
        "threat_model": repr(threat_models[0]),
        "large_threat_model": repr(threat_models[1]),
        "attack": repr(_PGD),
    }
    result = results.load(output, settings)
    done = result["rows"]
    dataset = kr.datasets.load(settings["dataset"], data_dir=_DATA_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(dataset, settings["epochs"], threat_models, folder)
    surrogate = study.trained("undefended")
    for name, make in study.rows().items():
        if name in done or (_ONLY.value and name not in _ONLY.value):
            continue
        model = make()
        print(f"Attacking {name}:", flush=True)
        own = None if name == "undefended" else surrogate
        done[name] = judge(model, dataset, study.ball(name), settings["examples"], own)
        command = "python -m benchmarks.negative_controls " + (
            "--quick" if quick else "--data_dir=DIR"
        )
        results.save(output, {**result, "command": command})
    show(done, settings)


if __name__ == "__main__":
    app.run(main)
