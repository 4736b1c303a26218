"""The figure of clean images, perturbations and adversarial images."""

from typing import NamedTuple

import numpy as np

from keras_robust.calls import with_argument_advice
from keras_robust.evaluation.reports.figures import make_figure
from keras_robust.evaluation.reports.threat_text import describe_threat

_CHANNELS = (1, 3, 4)


class Example(NamedTuple):
    """One row of the figure: images in `[0, 1]`, and captions with class and probability."""

    true: str
    clean: np.ndarray
    perturbation: np.ndarray
    adversarial: np.ndarray
    largest: float
    before: str
    after: str


@with_argument_advice
def draw_examples(report, path=None, num_examples=5, class_names=None):
    """Draws clean image, perturbation and adversarial image, one example per row.

    Examples that an attack broke come first, with the most confident mistakes on top. The title of
    an image is the predicted class with its probability. The perturbation is scaled so that gray
    means no change and its largest value is black or white.

    Args:
        report: `RobustnessReport` with its arrays, as `evaluate` returns it.
        path: str, the file to write (`.png`, `.svg`, `.pdf`), or `None`. Defaults to `None`.
        num_examples: int, the largest number of rows. Defaults to `5`.
        class_names: list of str, one per class, or `None` for numbers. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the inputs are not images, or the report was read from a file.
    """
    if not has_images(report):
        raise ValueError(
            "Pictures need a report from `evaluate`, not from a file, on images (n, height, width) "
            f"or (n, height, width, channels) with {', '.join(map(str, _CHANNELS[:-1]))} or "
            f"{_CHANNELS[-1]} channels. "
            f"Received: inputs of shape {getattr(report.x, 'shape', None)}"
        )
    names = name_classes(report, class_names)
    examples = choose_examples(report, num_examples, names)
    figure = make_figure(figsize=(6.0, 2.1 * len(examples) + 0.5), layout="constrained")
    threat = describe_threat(report.threat_model, report.inputs)
    figure.suptitle(
        f"clean, perturbation, adversarial: {report.robust_accuracy:.1%} of "
        f"{report.num_examples} are robust\nunder {threat}",
        fontsize=10,
        parse_math=False,
    )
    axes = figure.subplots(len(examples), 3, squeeze=False)
    for example, (left, middle, right) in zip(examples, axes, strict=True):
        _show(left, example.clean, example.before)
        _show(middle, example.perturbation, f"perturbation, max {example.largest:.3g}")
        _show(right, example.adversarial, example.after)
        left.set_ylabel(f"true {example.true}", fontsize=9, parse_math=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def has_images(report):
    """Returns whether the report has its arrays, and the inputs can be shown as images."""
    shape = getattr(report.x, "shape", ())
    return len(shape) == 3 or (len(shape) == 4 and shape[-1] in _CHANNELS)


def name_classes(report, class_names, prefix="class "):
    """Returns a name for each class: the given one, or the prefix and a number."""
    if class_names is None:
        return [f"{prefix}{number}" for number in range(report.num_classes)]
    names = [str(name) for name in class_names]
    if isinstance(class_names, str) or len(names) != report.num_classes:
        raise ValueError(
            f"Expected one name for each of the {report.num_classes} classes. "
            f"Received: class_names={class_names!r}"
        )
    return names


def choose_examples(report, num_examples, names):
    """Returns a list of `Example`: broken examples first, in the order of their confidence."""
    before = np.argmax(report.logits, axis=-1) == report.y
    after = np.argmax(report.adv_logits, axis=-1) == report.y
    confidence = _softmax(report.adv_logits).max(axis=-1)
    # The last key of lexsort is the primary one.
    order = np.lexsort((-confidence, ~(before & ~after)))
    return [_example(report, row, names) for row in order[:num_examples]]


def _example(report, row, names):
    low, high = report.threat_model["config"].get("bounds") or (report.x.min(), report.x.max())
    low, high = np.asarray(low), np.asarray(high)
    # Avoid a division by zero if all inputs are equal.
    extent = np.where(high > low, high - low, 1.0)
    x, x_adv = report.x[row], report.x_adv[row]
    delta = x_adv - x
    # Avoid a division by zero for an example that no attack changed.
    largest = max(float(np.abs(delta).max()), 1e-12)
    return Example(
        true=names[int(report.y[row])],
        clean=_image((x - low) / extent),
        perturbation=_image(0.5 + 0.5 * delta / largest),
        adversarial=_image((x_adv - low) / extent),
        largest=largest,
        before=_caption(report.logits[row], names),
        after=_caption(report.adv_logits[row], names),
    )


def _image(values):
    # Rounding may leave the range that imshow expects.
    values = np.clip(values, 0.0, 1.0)
    return values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values


def _show(axis, image, caption):
    axis.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_title(caption, fontsize=9, parse_math=False)
    axis.set_xticks([])
    axis.set_yticks([])


def _caption(logits, names):
    probabilities = _softmax(logits)
    return f"{names[int(np.argmax(probabilities))]}: {probabilities.max():.1%}"


def _softmax(logits):
    # Without the maximum, the exponential of a large logit would overflow.
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
