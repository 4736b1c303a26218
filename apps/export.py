"""Writes a trained classifier as a SavedModel for production servers.

    keras-robust-export --model=runs/latest/model.keras --output_dir=models/digits/1
    keras-robust-export --model=runs/latest/model.keras --output_dir=models/digits/2 --verify

The last part of --output_dir is the version number that a server looks for. An existing version is
never changed. Takes about ten seconds. The names of the signatures are printed: there is no
predict_bytes where nobody knows the scale of pictures.

With --verify a new process without Keras answers the requests that lie beside the model as Keras
does, and attacks on the served model, through its signatures, find what they find in memory; only
then does the folder get its name. That needs the data set and the threat model, which is that of
--report unless --epsilon is given.

For a model that takes other values than 0 to 1 say which, such as --bounds=0,255: the guard of the
served model lets these pass. A report knows them.

With --format it writes a file for ONNX, LiteRT or OpenVINO, and checks its predictions. Each needs
the extra of its name.
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
    flags.DEFINE_bool("verify", False, "Reload the SavedModel without Keras, and attack it.")
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
    """Exports a `.keras` file and says where it is.

    Args:
        model_path: str, the `.keras` file.
        output_dir: str, the folder to make.
        report: `RobustnessReport` or `None`.
        label_names: list of str or `None`.
        guard: as `export_saved_model` takes it.
        data: pair of arrays, the examples of the report, or `None`.
        verify: function of a folder and the model that raises an error for a SavedModel that must
            not be published, or `None`.

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
    if not path.name.isdecimal():
        print(f"TensorFlow Serving finds versions with a number as their name, not {path.name!r}")
    return model, path


def run_portable(format, model_path, output_dir, report, label_names, guard="auto"):
    """Exports a `.keras` file to another format than SavedModel."""
    model = models.load_keras(model_path)
    try:
        path = portable.export_portable(
            model, output_dir, format, report=report, label_names=label_names, guard=guard
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    print(f"Written to {path}: {format}, with the predictions of Keras")


def check(path, model, data, threat_model, **arguments):
    """Replays the requests without Keras, attacks the served model, and prints both.

    Args:
        path: the folder of a SavedModel.
        model: the `keras.Model` it was made from.
        data: pair of arrays.
        threat_model: `ThreatModel`.
        **arguments: further arguments of `compare_robustness`.

    Raises:
        ValueError: if the SavedModel is another model, or answers at random.
    """
    found = verification.replay_in_fresh_process(path)
    print(
        f"Without Keras: {found['compared']} of {found['requests']} requests have a stored answer, "
        f"and get it, largest difference {found['largest_difference']:.1e}"
    )
    if found["compared"] < found["requests"]:
        raise ValueError(
            "Answers with fresh noise differ from call to call, so that they cannot be compared: "
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
            "The served model is not as robust as the one in memory. "
            f"Received: path={str(path)!r}, which differs under {' and '.join(differ)} attacks"
        )


def main(_):
    values = flags.FLAGS
    report = None if values.report is None else kr.RobustnessReport.load(values.report)
    bounds, guard = _bounds(values.bounds, report)
    told = (values.model, values.output_dir, report, values.label_names, guard)
    if values.format != "saved_model":
        if values.verify:
            raise ValueError(
                "Other formats are checked when they are written; --verify is for a SavedModel. "
                f"Received: --verify with --format={values.format}"
            )
        run_portable(values.format, *told)
        return
    if not values.verify:
        run(*told)
        return
    x, y = shared_flags.load_dataset(values.dataset, values.data_dir, bounds).test
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
    run(*told, measured, verify)


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
            "The report is about other bounds: leave --bounds out, or give the report of this "
            f"model. Received: --bounds={','.join(given)} and a report with bounds {reported}"
        )
    return bounds, kr.layers.InputGuard(bounds)


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
