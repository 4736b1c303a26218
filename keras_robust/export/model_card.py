"""Model card: what a person must know before serving or calling a model."""

import re

from keras_robust.evaluation import RobustnessReport
from keras_robust.evaluation.reports.characters import one_line
from keras_robust.evaluation.reports.table import report_warnings
from keras_robust.evaluation.reports.threat_text import describe_threat


def write_model_card(manifest):
    """Returns the model card in Markdown.

    Args:
        manifest: dict that `make_manifest` returned.

    Raises:
        ValueError: for a report that `RobustnessReport.from_dict` refuses, so that a card holds no
            unchecked number.
    """
    parts = [
        f"# {_escaped(manifest['model']['name'])}",
        f"A classifier with {manifest['model']['num_parameters']:,} parameters, exported by "
        "keras_robust as a SavedModel that needs neither Keras nor keras_robust.",
        "## Robustness",
        _robustness(manifest),
        "## Inputs",
        _inputs(manifest["inputs"]),
        "## Signatures",
        "\n".join(f"- `{name}`: {_SIGNATURES[name]}" for name in manifest["signatures"]),
        "## Classes",
        _classes(manifest["model"]["label_names"]),
        "## What this does not say",
        _limits(manifest),
        "## Made with",
        "\n".join(
            _escaped(f"{name} {value}", "- ") for name, value in manifest["versions"].items()
        ),
    ]
    return "\n\n".join(parts) + "\n"


_SIGNATURES = {
    "serving_default": "`probabilities`, `label` (index), and `label_name` if there are names",
    "logits": "`logits`, through which gradients flow, for attacks on the served model",
    "predict_bytes": "the same as `serving_default` for `image_bytes`, PNG or JPEG files; images "
    "of another size are resized",
    "certify": "`label` (-1 to abstain), `radius` in L2 and `count` by randomized smoothing, for a "
    "`seed`, `num_samples` and `alpha`",
}
_LIMITS = (
    "- Robust accuracy is an upper bound: a stronger attack may find more misclassified examples. "
    "It holds for the threat model above, and for data like the evaluation data.\n"
    "- The guard rejects or replaces inputs outside the valid range. It does not detect "
    "adversarial examples, which are inside the range.\n"
)
_SOFTMAX = "- Probabilities are the output of the softmax. The export does not calibrate them."
_VOTES = (
    "- Probabilities are shares of the votes of {num_samples} copies of the input, with Gaussian "
    "noise of standard deviation {noise_stddev}. A certificate is about this vote."
)
_CERTIFY_LIMIT = (
    "\n- A certificate holds only for a seed that was drawn before any answer. A client that tries "
    "several seeds and keeps the best answer has no certificate."
)


def _limits(manifest):
    smoothing = manifest["model"]["smoothing"]
    text = _LIMITS + (_SOFTMAX if smoothing is None else _VOTES.format(**smoothing))
    return text + (_CERTIFY_LIMIT if "certify" in manifest["signatures"] else "")


def _robustness(manifest):
    if manifest["report"] is None:
        return "Not measured: no report was given. Nothing is known about attacks on this model."
    report = RobustnessReport.from_dict(manifest["report"])
    low, high = report.confidence
    attacks = ", ".join(attack.label for attack in report.attacks)
    lines = [
        _escaped(describe_threat(report.threat_model, report.inputs), "- Threat model: "),
        f"- Accuracy without attack: {report.clean_accuracy:.2%}",
        f"- Robust accuracy: {report.robust_accuracy:.2%} (95% interval {low:.2%} to "
        f"{high:.2%}, {report.num_examples} examples)",
        _escaped(attacks, "- Attacks: "),
        *_certified(report),
    ]
    lines += [_escaped(warning, "- Warning: ") for warning in report_warnings(report)]
    if manifest["data_fingerprint"] is not None:
        lines.append(f"- SHA-256 of the examples: {manifest['data_fingerprint']['sha256']}")
    return "\n".join(lines)


def _certified(report):
    """Returns a line on what certificates prove, in a list, or an empty list."""
    if report.certified_accuracy is None:
        return []
    names = ", ".join(proof.name for proof in report.certificates)
    start = f"- Certified accuracy: {report.certified_accuracy:.2%}, a lower bound, by "
    return [_escaped(names, start)]


def _inputs(inputs):
    rows = [
        "| name | shape | dtype | outside the bounds | NaN and infinities |",
        "|---|---|---|---|---|",
    ]
    for name, item in inputs.items():
        guard = item["guard"]
        outside = non_finite = "not guarded here"
        if guard is not None:
            non_finite = guard["non_finite"]
            bounds = guard["bounds"]
            outside = "no bounds" if bounds is None else f"{guard['outside']}: {bounds}"
        rows.append(f"| `{name}` | {item['shape']} | {item['dtype']} | {outside} | {non_finite} |")
    return "\n".join(rows)


def _classes(names):
    if names is None:
        return "Indices only; no names were given."
    return "\n".join(_escaped(name, f"- {index}: ") for index, name in enumerate(names))


def _escaped(text, start=""):
    """Returns `start` and the text on one line, escaped so that Markdown shows it literally.

    It escapes markup, entities, formulas, mentions and addresses that would become links.
    """
    text = re.sub(r"([\\`*_\[\]<>#|!&~$@:])", r"\\\1", one_line(text))
    return start + re.sub(r"(?i)(www)\.", r"\1\\.", text)
