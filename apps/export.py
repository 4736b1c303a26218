"""Exports a trained classifier as a SavedModel for production servers.

    keras-robust-export --model=runs/latest/model.keras --output_dir=models/digits/1
    keras-robust-export --model=runs/latest/model.keras --output_dir=models/digits/2 --verify

The last part of --output_dir is the version number that a server looks for. An existing version
never changes. The export takes about ten seconds, and the program prints the names of the
signatures. There is no predict_bytes if the scale of pictures is unknown.

With --verify the program checks two things before the folder gets its name: a new process without
Keras must answer the warmup requests like Keras, and attacks through the signatures of the served
model must find the same robust accuracy as attacks on the model in memory. The attacks need the
data set, and the threat model, which is the one of --report unless --epsilon is set.

If the model takes other values than 0 to 1, pass them, for example --bounds=0,255: the guard of the
served model then accepts them. A report already contains them.

With --format the program writes a file for ONNX, LiteRT or OpenVINO, and checks its predictions.
Each format needs the extra with its name.
"""

import functools
import json

import numpy as np
from absl import flags

import keras_robust as kr
from keras_robust.evaluation.reports.threat_text import describe_threat
from keras_robust.export import guards
from keras_robust.export import portable
from keras_robust.export import verify as verification

from . import cli
from . import models
from . import shared_flags

_VERIFY_EXAMPLES = 200


def define_flags():
    """Defines the flags of this program."""
    flags.DEFINE_string("model", None, "A .keras file.")
    flags.DEFINE_string("output_dir", None, "Folder to make, such as models/digits/1.")
    flags.DEFINE_string("report", None, "A report.json to put into the SavedModel.")
    flags.DEFINE_list("label_names", None, "Names of the classes, separated by commas.")
    flags.DEFINE_enum("format", "saved_model", ["saved_model", *portable.FORMATS], "What to write.")
    flags.DEFINE_bool("verify", False, "Reload the SavedModel without Keras and attack it.")
    shared_flags.define_data()
    shared_flags.define_threat_model()
    shared_flags.define_evaluation()
    flags.mark_flags_as_required(["model", "output_dir"])


def run(
    model_path,
    output_dir,
    report=None,
    label_names=None,
    guard="auto",
    data=None,
    verify=None,
):
    """Exports a `.keras` file as a SavedModel and prints its path.

    Args:
        model_path: str, the `.keras` file.
        output_dir: str, the folder to make.
        report: `RobustnessReport` or `None`.
        label_names: list of str or `None`.
        guard: see `export_saved_model`.
        data: pair of arrays, the examples of the report, or `None`.
        verify: function of the folder and the model, or `None`. It raises an error if the
            SavedModel must not be published.

    Returns:
        The model, and `pathlib.Path` of the SavedModel.
    """
    model = models.load_keras(model_path)
    path = kr.export_saved_model(
        model,
        output_dir,
        report=report,
        label_names=label_names,
        guard=guard,
        data=data,
        check=None if verify is None else lambda folder: verify(folder, model),
    )
    signatures = json.loads((path / "assets.extra" / "robustness.json").read_text())["signatures"]
    print(f"Written to {path}: signatures {', '.join(signatures)}")
    # Other programs load a folder of any name, so this is a note and not an error.
    if not path.name.isdecimal():
        print(f"TensorFlow Serving only finds versions whose name is a number, not {path.name!r}")
    return model, path


def run_portable(format, model_path, output_dir, report, label_names, guard="auto"):
    """Exports a `.keras` file to a format other than SavedModel."""
    model = models.load_keras(model_path)
    try:
        path = portable.export_portable(
            model, output_dir, format, report=report, label_names=label_names, guard=guard
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    print(f"Written to {path}: {format}, with the predictions of Keras")


def check(path, model, data, threat_model, **arguments):
    """Replays the requests without Keras, attacks the served model, and prints the results.

    Args:
        path: str, the folder of a SavedModel.
        model: the `keras.Model` that was exported.
        data: pair of arrays.
        threat_model: `ThreatModel`.
        **arguments: further arguments of `compare_robustness`.

    Raises:
        ValueError: if the SavedModel differs from the model, or its answers are random.
    """
    found = verification.replay_in_fresh_process(path)
    print(
        f"Without Keras: {found['compared']} of {found['requests']} requests have a stored answer "
        f"and get the same one, largest difference {found['largest_difference']:.1e}"
    )
    if found["compared"] < found["requests"]:
        raise ValueError(
            "Answers with fresh noise differ from call to call and cannot be compared: "
            "give the RandomizedSmoothing a seed, or export without --verify. Received: "
            f"{found['requests'] - found['compared']} requests with random answers"
        )
    differ = []
    for kind, reports in verification.compare_robustness(
        path, model, data, threat_model, **arguments
    ).items():
        accuracies = {place: report.robust_accuracy for place, report in reports.items()}
        texts = [f"{value:.2%} {place}" for place, value in accuracies.items()]
        served = reports["served"]
        threat = describe_threat(served.threat_model, served.inputs)
        print(f"{threat}, {served.num_examples} examples, {kind} attacks:")
        print(f"Robust accuracy: {', '.join(texts)}")
        if len(set(accuracies.values())) > 1:
            differ.append(kind)
    if differ:
        raise ValueError(
            "The served model must have the robust accuracy of the model in memory. "
            f"Received: path={str(path)!r}, which differs under {' and '.join(differ)} attacks"
        )


def main(_):
    values = flags.FLAGS
    report = None if values.report is None else kr.RobustnessReport.load(values.report)
    bounds, guard = _bounds(values.bounds, report)
    arguments = (values.model, values.output_dir, report, values.label_names, guard)
    if values.format != "saved_model":
        if values.verify:
            raise ValueError(
                "--verify is only for a SavedModel. Other formats are always checked: leave the "
                f"flag out. Received: --verify with --format={values.format}"
            )
        run_portable(values.format, *arguments)
        return
    if not values.verify:
        run(*arguments)
        return
    x, y = shared_flags.load_dataset(values.dataset, values.data_dir, bounds).test
    # The fingerprint must cover exactly the examples of the report.
    measured = None if report is None else (x[: report.num_examples], y[: report.num_examples])
    if report is not None and values.epsilon is None:
        threat_model = guards.threat_model_of(report)
    else:
        threat_model = shared_flags.make_threat_model(
            values.threat_model, values.epsilon, values.dataset, bounds
        )
    verify = functools.partial(
        check,
        data=(x, y),
        threat_model=threat_model,
        suite=shared_flags.make_suite(values.evaluation_steps, values.evaluation_restarts),
        num_examples=values.evaluation_examples or _VERIFY_EXAMPLES,
        batch_size=values.batch_size,
        seed=values.seed,
    )
    run(*arguments, measured, verify)


def _bounds(given, report):
    """Returns the bounds of the images, and the `guard` of `export_saved_model`.

    Args:
        given: the value of --bounds, a list of str or `None`.
        report: `RobustnessReport` or `None`.
    """
    reported = None if report is None else report.threat_model["config"].get("bounds")
    bounds = shared_flags.parse_bounds(given)
    if given is None:
        return (bounds if reported is None else tuple(map(np.asarray, reported))), "auto"
    if reported is not None and not all(map(np.array_equal, reported, bounds)):
        raise ValueError(
            "The report has other bounds: leave --bounds out, or pass the report of this model. "
            f"Received: --bounds={','.join(given)} and a report with bounds {reported}"
        )
    return bounds, kr.layers.InputGuard(bounds)


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
