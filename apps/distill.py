"""Distills a teacher into a student, and compares the two under attack.

    keras-robust-distill --method=rslad
    keras-robust-distill --method=ard --teacher=robust.keras --model=small.keras
    keras-robust-distill --method=defensive --temperature=100

Without --teacher, the program trains the teacher first: adversarially for `ard` and `rslad`, and at
the temperature without any attack for `defensive`. Defensive distillation is included as a defense
that is known to fail: its saturated softmax fools attacks on the cross-entropy, but not attacks on
the margin. The first command takes about two minutes on two CPU cores. The program writes the same
files to --output_dir as keras-robust-train; model.keras and the SavedModel hold the student.
"""

import keras
from absl import flags

import keras_robust as kr
from keras_robust import backend

from . import cli
from . import models
from . import names
from . import shared_flags
from . import training

_METHODS = {
    "ard": kr.objectives.ARD,
    "defensive": kr.objectives.DefensiveDistillation,
    "rslad": kr.objectives.RSLAD,
}

_SETTINGS = (
    "dataset bounds model method teacher temperature epochs batch_size learning_rate seed "
    "threat_model epsilon num_steps warmup attack_dtype evaluation_steps "
    "evaluation_restarts evaluation_examples"
)


def define_flags():
    """Defines the flags of this program."""
    shared_flags.define_data()
    shared_flags.define_threat_model()
    shared_flags.define_evaluation()
    shared_flags.define_training()
    names.define("method", "rslad", _METHODS, "How the student learns.")
    flags.DEFINE_string(
        "model",
        models.SMALL_CNN,
        f"The student: '{models.SMALL_CNN}', or the path of your own .keras file.",
    )
    flags.DEFINE_string(
        "teacher",
        None,
        "The path of a .keras file: a robust model for ard and rslad, a model trained at the "
        "temperature for defensive. Default: train the same network as the student first.",
    )
    flags.DEFINE_float(
        "temperature",
        None,
        "Divides the logits during the training of the student. Default: ard 30, defensive 20; "
        "rslad has none.",
        lower_bound=1e-9,
    )


def run(settings, *, output_dir, checkpoint_dir=None, data_dir=None):
    """Trains teacher and student, evaluates both, and writes the results.

    Args:
        settings: dict of the flags on which the results depend.
        output_dir: str, the folder for the results.
        checkpoint_dir: str or `None`, the folder for checkpoints.
        data_dir: str or `None`, the folder of prepared data sets.

    Returns:
        dict from `"teacher"` and `"student"` to `RobustnessReport`.
    """
    dataset, threat_model = training.load(settings, data_dir)
    teacher = _teacher(settings, dataset)
    objective = _objective(settings, teacher)
    callbacks = _defence(objective, settings, dataset, threat_model)
    # Only now, so that a setting that is refused leaves no trace in the folders.
    output_dir = training.prepare_folders(output_dir, checkpoint_dir, settings)
    if settings["teacher"] is None:
        first = []
        if isinstance(objective, kr.objectives.DefensiveDistillation):
            _compile_with_temperature(teacher, objective.temperature, settings)
        else:
            first = _defence("adversarial", settings, dataset, threat_model)
        training.fit("teacher", teacher, dataset, settings, first, checkpoint_dir)
    student = training.build(settings, dataset)
    training.fit("student", student, dataset, settings, callbacks, checkpoint_dir)
    trained = {"teacher": teacher, "student": student}
    reports = training.attack(trained, dataset, threat_model, settings)
    training.write("student", student, reports, dataset, output_dir)
    return reports


def _teacher(settings, dataset):
    """Returns the teacher of --teacher, or an untrained one."""
    if settings["teacher"] is None:
        return training.build(settings, dataset)
    teacher = models.load_keras(settings["teacher"], flag="teacher")
    models.check_fit(teacher, dataset)
    return teacher


def _objective(settings, teacher):
    method, temperature = settings["method"], settings["temperature"]
    if method == "defensive" and settings["num_steps"] is not None:
        raise ValueError(
            "Defensive distillation trains without an attack: leave --num_steps out. "
            f"Received: --method=defensive --num_steps={settings['num_steps']}"
        )
    if temperature is None:
        return _METHODS[method](teacher)
    if method == "rslad":
        raise ValueError(
            "RSLAD has no temperature: use --method=ard, or leave --temperature out. "
            f"Received: --method=rslad --temperature={temperature}"
        )
    return _METHODS[method](teacher, temperature)


def _compile_with_temperature(teacher, temperature, settings):
    """Compiles the teacher of defensive distillation with a loss that divides its logits."""
    outputs = teacher(keras.ops.zeros((1, *teacher.input_shape[1:])))
    if backend.keras_logits(outputs) is not None:
        raise ValueError(
            "Defensive distillation divides logits by a temperature, and this model ends in a "
            f"softmax. Remove the last activation. Received: --model={settings['model']}"
        )
    loss = kr.losses.TemperatureCrossEntropy(temperature)
    # Papernot et al. (2016) train the teacher and the student at the same temperature.
    teacher.compile(teacher.optimizer, loss, metrics=["accuracy"])


def _defence(objective, settings, dataset, threat_model):
    adv_train, validation = training.make_defence(
        settings,
        dataset,
        threat_model,
        attack=training.make_attack("pgd", settings["num_steps"]),
        objective=objective,
    )
    return [adv_train, validation] if adv_train.objective.runs_attack else [adv_train]


def main(_):
    training.run_with_flags(run, _SETTINGS)


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
