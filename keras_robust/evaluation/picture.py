"""The picture that every talk on adversarial examples opens with."""

import numpy as np


def draw_examples(report, path=None, num_examples=5):
    """Draws clean image, perturbation and adversarial image, one example a row.

    Shows examples that were right and are wrong under attack first, the most confident mistakes on
    top. Above each image stand the predicted class and its probability. The perturbation is scaled
    so that grey is no change and its largest value is black or white.

    Args:
        report: `RobustnessReport` with its arrays, as `evaluate` returns it.
        path: str, the file to write (`.png`, `.svg`, `.pdf`), or `None`. Defaults to `None`.
        num_examples: int, the number of rows at most. Defaults to `5`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: without matplotlib.
        ValueError: if the inputs are not images, or the report was read from a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib. Install it with: pip install 'keras_robust[plots]'"
        ) from error
    shape = getattr(report.x, "shape", None)
    if shape is None or len(shape) not in (3, 4):
        raise ValueError(
            "Pictures need a report that `evaluate` returned, on images (n, height, width) or "
            f"(n, height, width, channels). Received: inputs of shape {shape}"
        )
    rows = _choose(report, num_examples)
    figure = Figure(figsize=(6.0, 2.1 * len(rows) + 0.5), layout="constrained")
    name, epsilon = report.threat_model["class_name"], np.max(report.threat_model["epsilon"])
    figure.suptitle(
        f"clean, perturbation, adversarial: {report.robust_accuracy:.1%} of "
        f"{report.num_examples} hold under {name} {epsilon:g}",
        fontsize=10,
    )
    axes = figure.subplots(len(rows), 3, squeeze=False)
    low, high = report.threat_model["config"]["bounds"] or (report.x.min(), report.x.max())
    for row, (left, middle, right) in zip(rows, axes, strict=True):
        x, x_adv = report.x[row], report.x_adv[row]
        delta = x_adv - x
        largest = max(float(np.abs(delta).max()), 1e-12)
        _show(left, (x - low) / (np.asarray(high) - low), _caption(report.logits[row]))
        _show(middle, 0.5 + 0.5 * delta / largest, f"perturbation, max {largest:.3g}")
        _show(right, (x_adv - low) / (np.asarray(high) - low), _caption(report.adv_logits[row]))
        left.set_ylabel(f"true class {report.y[row]}", fontsize=9)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _choose(report, num_examples):
    """Indices of the examples to show: right before, wrong after, then by confidence after."""
    before = np.argmax(report.logits, axis=-1) == report.y
    after = np.argmax(report.adv_logits, axis=-1) == report.y
    confidence = _softmax(report.adv_logits).max(axis=-1)
    order = np.lexsort((-confidence, ~(before & ~after)))
    return order[:num_examples]


def _show(axis, image, caption):
    image = np.clip(image, 0.0, 1.0)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    axis.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_title(caption, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def _caption(logits):
    probabilities = _softmax(logits)
    return f"class {np.argmax(probabilities)}: {probabilities.max():.1%}"


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
