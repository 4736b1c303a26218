"""Writes a trained classifier as a SavedModel for production servers.

    python -m apps.export --model=runs/latest/model.keras --output_dir=models/digits/1

The last part of --output_dir is the version number that a server looks for. An existing version is
never changed. Takes about ten seconds.
"""

from absl import flags

import keras_robust as kr
from apps import cli
from apps import models


def define_flags():
    """Defines the flags of this program."""
    flags.DEFINE_string("model", None, "A .keras file.")
    flags.DEFINE_string("output_dir", None, "Folder to make, such as models/digits/1.")
    flags.DEFINE_string("report", None, "A report.json to put into the SavedModel.")
    flags.DEFINE_list("label_names", None, "Names of the classes, separated by commas.")
    flags.mark_flags_as_required(["model", "output_dir"])


def run(model_path, output_dir, report_path=None, label_names=None):
    """Exports a `.keras` file and says where it is.

    Args:
        model_path: str, the `.keras` file.
        output_dir: str, the folder to make.
        report_path: str or `None`, a JSON report of `keras_robust.evaluate`.
        label_names: list of str or `None`.

    Returns:
        `pathlib.Path` of the SavedModel.
    """
    report = None if report_path is None else kr.RobustnessReport.load(report_path)
    model = models.load_keras(model_path)
    path = kr.export_saved_model(model, output_dir, report=report, label_names=label_names)
    print(f"Written to {path}: signatures serving_default and logits")
    return path


def main(_):
    values = flags.FLAGS
    run(values.model, values.output_dir, values.report, values.label_names)


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
