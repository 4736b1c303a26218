"""Robust accuracy: what is left when every attack has had its turn."""

import platform
import time

import keras
import numpy as np
import scipy.stats

from keras_robust import attacks as attacks_module
from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks.examples import check_examples
from keras_robust.attacks.examples import to_arrays
from keras_robust.evaluation.report import AttackReport
from keras_robust.evaluation.report import RobustnessReport
from keras_robust.evaluation.report import label
from keras_robust.version import __version__

_BLIND_SHARE = 0.01


def standard_attacks():
    """Returns the attacks of `attacks="standard"`: PGD-50 with 10 restarts on two losses.

    The margin finds what a saturated cross-entropy hides. The suite is white-box and not
    AutoAttack: do not quote its numbers as AutoAttack's.
    """
    return [
        attacks_module.PGD(num_steps=50, num_restarts=10, loss="cross_entropy"),
        attacks_module.PGD(num_steps=50, num_restarts=10, loss="margin"),
    ]


def evaluate(
    model,
    data,
    threat_model="linf",
    attacks="standard",
    *,
    num_examples=None,
    batch_size=256,
    seed=0,
    verbose=False,
):
    """Attacks a model with all it has got, and returns what is left of its accuracy.

    Every attack runs on every example; an example counts as robust if the model is right on it and
    on everything that any attack and restart made of it. Each adversarial example is checked
    again, outside of the attack: it must be feasible, and the model must get it wrong. The model is
    left as it was.

    Args:
        model: `keras.Model`, or a callable that maps a batch to logits.
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`; inputs within the bounds
            of the threat model; `x` may be a dict or list of several inputs. Use test data that
            training and model choice never saw.
        threat_model: a `ThreatModel` with a fixed radius, its name, or for several inputs a dict
            or list of such. Defaults to `"linf"`.
        attacks: `"standard"` (see `standard_attacks`), or an attack, or a list of them, as
            objects or names. Defaults to `"standard"`.
        num_examples: int, the first so many examples; `None` for all. Defaults to `None`.
        batch_size: int. Does not change the result. Defaults to `256`.
        seed: int, of the random starts. Defaults to `0`.
        verbose: bool, whether to show a progress bar per attack. Defaults to `False`.

    Returns:
        A `RobustnessReport`.

    Raises:
        ValueError: for unknown names, empty or invalid data, labels that are no class, targeted
            attacks, and perturbations at a layer, which are no inputs that somebody could send.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.array([[0.2, 0.8], [0.4, 0.5], [0.9, 0.1]], "float32")
    >>> y = np.array([1, 1, 0])
    >>> report = kr.evaluate(lambda x: 10.0 * x, (x, y), kr.Linf(0.1), attacks="pgd")
    >>> print(f"{report.clean_accuracy:.2f} {report.robust_accuracy:.2f}")
    1.00 0.67

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705), on evaluating robustness.
    """
    start = time.perf_counter()
    threat_model = threat_models.get(threat_model)
    if not threat_model.changes_inputs:
        raise ValueError(
            "Robust accuracy is about inputs that an attacker can send, and this threat model "
            "changes what a layer puts out. Use `attack.run` and the share of `success`, or give "
            f"the threat model of an input. Received: {threat_model!r}"
        )
    suite = _resolve(attacks)
    x, y = check_examples(*to_arrays(data, num_examples), threat_model)
    logits = backend.predict_logits(model, x, batch_size)
    if not np.isfinite(logits).all():
        raise ValueError(
            "The model returns NaN or infinite values on clean examples, so that there is nothing "
            f"to evaluate. Received: {int((~np.isfinite(logits)).any(axis=-1).sum())} such examples"
        )
    labels = _check_labels(y, logits)
    correct = np.argmax(logits, axis=-1) == labels
    worst = _Worst(x, labels, logits, correct)
    reports, warnings = [], _output_warnings(model, logits)
    for index, attack in enumerate(suite):
        if verbose:
            print(f"{attack}")  # noqa: T201
        report, more = _run(
            attack, model, worst, threat_model, batch_size, _seed(seed, index), verbose
        )
        reports.append(report)
        warnings += more
    robust = int(worst.robust.sum())
    size = backend.size_of(x)
    interval = scipy.stats.binomtest(robust, size).proportion_ci(0.95, method="exact")
    return RobustnessReport(
        threat_model={
            "class_name": type(threat_model).__name__,
            "config": threat_model.get_config(),
            "epsilon": np.asarray(threat_model.radius).astype(float).round(7).tolist(),
        },
        num_examples=size,
        num_classes=logits.shape[-1],
        clean_accuracy=float(correct.mean()),
        robust_accuracy=robust / size,
        confidence=(float(interval.low), float(interval.high)),
        attacks=reports,
        warnings=warnings,
        seed=seed,
        versions=_versions(),
        seconds=time.perf_counter() - start,
        x=x,
        y=labels,
        x_adv=worst.x_adv,
        logits=logits,
        adv_logits=worst.logits,
    )


def _seed(seed, index):
    """A seed of its own for each attack, so that no two share their random starts."""
    return (seed + 104729 * index) % 2**31


class _Worst:
    """The strongest adversarial example of each input so far."""

    def __init__(self, x, y, logits, correct):
        self.x, self.y, self.correct = x, y, correct
        self.robust = correct.copy()
        self.x_adv, self.logits = keras.tree.map_structure(np.copy, x), logits.copy()

    def update(self, x_adv, logits, feasible):
        """Takes in what an attack found; returns which examples it left robust."""
        wrong = np.argmax(logits, axis=-1) != self.y
        broken = ~self.correct | (wrong & feasible)
        old, new = (np.asarray(losses.margin(self.y, z)) for z in (self.logits, logits))
        stronger = self.correct & feasible & (new > old)
        self.logits[stronger] = logits[stronger]
        leaves = zip(keras.tree.flatten(self.x_adv), keras.tree.flatten(x_adv), strict=True)
        for kept, found in leaves:
            kept[stronger] = found[stronger]
        self.robust &= ~broken
        return ~broken


def _run(attack, model, worst, threat_model, batch_size, seed, verbose):
    start = time.perf_counter()
    found = attack.run(
        model,
        worst.x,
        worst.y,
        threat_model,
        batch_size=batch_size,
        seed=seed,
        verbose=verbose,
    )
    feasible = np.asarray(threat_model.contains(found.x_adv, worst.x))
    logits = backend.predict_logits(model, found.x_adv, batch_size)
    robust = worst.update(found.x_adv, logits, feasible)
    blind = float(found.zero_gradient[worst.correct].mean()) if worst.correct.any() else 0.0
    warnings = []
    settings = {name: _plain(value) for name, value in attack.get_config().items()}
    short = label(type(attack).__name__, settings)
    if not feasible.all():
        warnings.append(
            f"{short} left the threat model on {(~feasible).sum()} examples, which are counted "
            "as not broken."
        )
    if blind > _BLIND_SHARE:
        warnings.append(
            f"{short} saw only zero gradients on {blind:.1%} of the examples: its accuracy is too "
            "high to believe. Believe the margin loss more, and let the model return logits."
        )
    report = AttackReport(
        name=type(attack).__name__,
        settings=settings,
        accuracy=float(robust.mean()),
        accuracy_so_far=float(worst.robust.mean()),
        zero_gradient=blind,
        seconds=time.perf_counter() - start,
        robust=robust,
    )
    return report, warnings


def _plain(value):
    """Turns an argument of an attack into what JSON can hold: a function into its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", repr(value))


def _resolve(attacks):
    if isinstance(attacks, str) and attacks == "standard":
        return standard_attacks()
    attacks = attacks if isinstance(attacks, (list, tuple)) else [attacks]
    if not attacks:
        raise ValueError("Expected at least one attack. Received: attacks=[]")
    return [attacks_module.get_for_evaluation(attack) for attack in attacks]


def _check_labels(y, logits):
    labels = np.asarray(losses.to_indices(y, logits.shape[-1]))
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"Labels must be class indices from 0 to {logits.shape[-1] - 1}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels


def _output_warnings(model, logits):
    """Says so if a callable returns probabilities, whose gradients vanish."""
    if isinstance(model, keras.Model) and getattr(model, "loss", None) is not None:
        return []
    sums = logits.sum(axis=-1)
    if (logits >= 0.0).all() and np.allclose(sums, 1.0, atol=1e-5):
        return [
            "The outputs look like probabilities: every row is positive and sums to 1. Gradients "
            "vanish where they saturate; return logits instead."
        ]
    return []


def _versions():
    return {
        "keras_robust": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
