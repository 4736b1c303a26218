"""What is written over and under the table and the figure of a certificate report."""

import math
import numbers
import reprlib

from keras_robust.evaluation.reports.characters import one_line


def title_of(report):
    """Returns the title: the model, the method, the norm and the number of examples."""
    name = f"{report.model_name}: " if report.model_name else ""
    method = report.method["class_name"]
    return one_line(f"{name}{method}, radii in {report.norm}, {report.num_examples} examples")


def figures_of(report):
    """Returns the figures that do not depend on a radius."""
    return (
        f"clean accuracy {report.clean_accuracy:.1%}, abstained {report.abstained:.1%}, "
        f"average radius {report.average_radius:.4g} in {report.norm} (0 where wrong)"
    )


def decided_radius(report):
    """Returns the one radius that the method tried, from its arguments, or `None`."""
    config = report.method["config"]
    radius = config.get("radius")
    if radius is None and config.get("num_steps") == 0:
        radius = config.get("max_radius")
    # The arguments may come from a file, and from a class of the user.
    is_number = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
    return float(radius) if is_number and 0.0 < radius < math.inf else None


def arguments_of(report):
    """Returns the arguments of the method, such as the noise and `alpha`."""
    given = report.method["config"].items()
    texts = [f"{key}={_short(value)}" for key, value in given if value is not None]
    return one_line(", ".join(texts))


def _short(value):
    """Returns an argument as text, with a long one shortened."""
    return value if isinstance(value, str) and len(value) <= 50 else reprlib.repr(value)
