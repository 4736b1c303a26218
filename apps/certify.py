"""Proves how far each example of a test set may be moved without changing the prediction.

    python -m apps.certify --model=runs/latest/model.keras --noise_stddev=0.25 --num_samples=10000
    python -m apps.certify --model=runs/latest/model.keras --method=interval --output_dir=runs/proof

Randomised smoothing (L2) for every model, interval bounds (Linf) for those trained for them,
Lipschitz margins (L2) for orthogonal networks, and the exact distance for linear ones. Writes the
report as JSON, and certified accuracy against the radius as a picture.
"""

import pathlib

from absl import flags
from rich.console import Console

import keras_robust as kr
from apps import cli
from apps import models
from apps import shared_flags


def define_flags():
    """Defines the flags of this program."""
    shared_flags.define_data()
    flags.DEFINE_string("model", None, "A .keras file.")
    flags.DEFINE_enum(
        "method", "smoothing", sorted(kr.certification.registry.classes), "The kind of proof."
    )
    flags.DEFINE_float(
        "noise_stddev",
        None,
        "smoothing: size of the noise for inputs in [0, 1], as in the training of the model.",
    )
    flags.DEFINE_integer(
        "num_samples", None, "smoothing: noisy copies of each example. Default: 100000."
    )
    flags.DEFINE_float("alpha", None, "smoothing: chance of error for an example. Default: 0.001.")
    flags.DEFINE_enum("norm", None, ["L1", "L2", "Linf"], "linear: norm of the radii.")
    flags.DEFINE_integer(
        "num_examples", None, "Certify only the first so many test examples.", lower_bound=1
    )
    flags.DEFINE_string(
        "output_dir", None, "Folder for certificate.json and, with matplotlib, certificate.png."
    )
    flags.mark_flag_as_required("model")


def run(model, dataset, method, *, output_dir, **arguments):
    """Certifies a model, prints the table, writes the report.

    Args:
        model: `keras.Model`.
        dataset: `keras_robust.datasets.Dataset`.
        method: str, the name of a certificate.
        output_dir: str or `None`.
        **arguments: further arguments of `certify`; those that are `None` are left out.

    Returns:
        `CertificateReport`.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    report = kr.certify(model, dataset.test, method, **given)
    Console().print(report)
    if output_dir is not None:
        folder = pathlib.Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report.save(folder / "certificate.json")
        try:
            report.plot(str(folder / "certificate.png"))
        except ImportError as error:
            print(error)
        print(f"Written to {folder}")
    return report


def main(_):
    values = flags.FLAGS
    model = models.load_keras(values.model)
    dataset = shared_flags.load_dataset(values.dataset, values.data_dir)
    models.check_fit(model, dataset)
    run(
        model,
        dataset,
        values.method,
        output_dir=values.output_dir,
        num_examples=values.num_examples,
        batch_size=values.batch_size,
        seed=values.seed,
        noise_stddev=values.noise_stddev,
        num_samples=values.num_samples,
        alpha=values.alpha,
        norm=values.norm,
    )


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
