"""Certifies a trained classifier: proves radii within which no prediction changes.

    keras-robust-certify --model=runs/latest/model.keras --noise_stddev=0.25 --num_samples=10000
    keras-robust-certify --model=runs/latest/model.keras --method=crown --norm=Linf --radii=8/255

Randomized smoothing (L2) works for every model, linear bounds (crown, alpha_crown: Linf, L2, L1)
for ordinary networks of a few layers, branch and bound (complete: Linf at one radius) for small
ReLU networks, interval bounds (Linf) for models that were trained with them, Lipschitz margins (L2)
for orthogonal networks, and the exact distance for linear models. With --output_dir the program
writes the report as JSON, and a plot of certified accuracy over the radius.
"""

import fractions
import inspect
import sys

from absl import flags
from rich.console import Console

import keras_robust as kr

from . import cli
from . import models
from . import names
from . import shared_flags


def define_flags():
    """Defines the flags of this program."""
    shared_flags.define_data()
    flags.DEFINE_string("model", None, "A .keras file.")
    methods = map(names.snake_case, kr.certification.ALL)
    names.define("method", "smoothing", methods, "The kind of proof.")
    flags.DEFINE_list(
        "radii",
        None,
        "Radii to show in the table, in the units of --bounds: numbers or fractions such as 8/255. "
        "Default: round numbers.",
    )
    flags.DEFINE_integer(
        "num_examples", None, "Certify only this number of test examples.", lower_bound=1
    )
    flags.DEFINE_string(
        "output_dir", None, "Folder for certificate.json and (with matplotlib) certificate.png."
    )
    flags.mark_flag_as_required("model")
    _define_smoothing()
    _define_arguments()


def _define_smoothing():
    """Defines the flags that are arguments of smoothing alone."""
    flags.DEFINE_string(
        "noise_stddev",
        None,
        "smoothing: size of the noise in the units of --bounds, a number or a fraction such as "
        "32/255. Use the size with which the model was trained.",
    )
    flags.DEFINE_integer(
        "num_samples", None, "smoothing: noisy copies of each example. Default: 100000."
    )
    names.define(
        "dtype",
        None,
        ["bfloat16", "float16"],
        "smoothing: dtype of the layers that vote. The certificate holds for the model in this "
        "dtype. Default: that of each layer.",
    )
    flags.DEFINE_float("alpha", None, "smoothing: chance of error for an example. Default: 0.001.")


def _define_arguments():
    """Defines the flags that are arguments of one or a few other methods."""
    names.define(
        "norm", None, ["L1", "L2", "Linf"], "linear, crown, alpha_crown: norm of the radii."
    )
    flags.DEFINE_string(
        "max_radius",
        None,
        "interval, crown, alpha_crown: the largest radius to try, in the units of --bounds, a "
        "number or a fraction such as 8/255. Default: the size of the box.",
    )
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Bisections of the search for the radius. With 0, crown and alpha_crown try --max_radius "
        "alone.",
    )
    flags.DEFINE_string(
        "radius",
        None,
        "complete, smoothing: the radius to decide, in the units of --bounds, a number or a "
        "fraction. Default of smoothing: the largest radius.",
    )
    flags.DEFINE_float(
        "time_limit", None, "complete: seconds for branch and bound per example. Default: 60."
    )
    flags.DEFINE_integer(
        "num_iterations", None, "alpha_crown: steps that optimize each bound. Default: 20."
    )


def run(model, dataset, method, *, output_dir, radii=None, **arguments):
    """Certifies a model, prints the table, writes and returns the report.

    Args:
        model: `keras.Model`.
        dataset: `keras_robust.datasets.Dataset`.
        method: str, the name of a certificate.
        output_dir: str or `None`.
        radii: list of str, the radii to show. Defaults to `None`, round numbers.
        **arguments: further arguments of `certify`. Arguments that are `None` are left out.

    Returns:
        `CertificateReport`.
    """
    # Check the radii before the long computation.
    for radius in radii or ():
        _number("radii", radius)
    folder = cli.make_folder(output_dir)
    given = {name: value for name, value in arguments.items() if value is not None}
    # A progress bar would fill a log file, so only a terminal gets one.
    report = kr.certify(model, dataset.test, method, verbose=sys.stdout.isatty(), **given)
    Console().print(report.table(radii))
    if folder is not None:
        report.save(folder / "certificate.json")
        # The plot needs matplotlib, which is optional.
        try:
            report.plot(str(folder / "certificate.png"))
        except ImportError as error:
            print(error)
        print(f"Written to {folder}")
    return report


def _has_bounds(method):
    """Returns whether the certificate with this name takes bounds of the inputs."""
    return "bounds" in inspect.signature(kr.certification.registry.find(method)).parameters


def _number(name, text):
    """Returns the float for the text of a flag, a number or a fraction, or `None` for `None`."""
    try:
        return None if text is None else float(fractions.Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"Expected a number or a fraction such as 8/255. Received: --{name}={text}"
        ) from error


def main(_):
    values = flags.FLAGS
    stddev = _number("noise_stddev", values.noise_stddev)
    bounds = shared_flags.parse_bounds(values.bounds)
    model = models.load_keras(values.model)
    dataset = shared_flags.load_dataset(values.dataset, values.data_dir, bounds)
    is_smoothed = isinstance(model, kr.layers.RandomizedSmoothing)
    models.check_fit(model.model if is_smoothed else model, dataset)
    run(
        model,
        dataset,
        values.method,
        output_dir=values.output_dir,
        radii=values.radii,
        num_examples=values.num_examples,
        # Each method has a default of its own, which suits it better than that of the flag.
        batch_size=values.batch_size if values["batch_size"].present else None,
        seed=values.seed,
        noise_stddev=stddev,
        num_samples=values.num_samples,
        alpha=values.alpha,
        dtype=values.dtype,
        norm=values.norm,
        max_radius=_number("max_radius", values.max_radius),
        radius=_number("radius", values.radius),
        time_limit=values.time_limit,
        num_steps=values.num_steps,
        num_iterations=values.num_iterations,
        bounds=bounds if _has_bounds(values.method) else None,
    )


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
