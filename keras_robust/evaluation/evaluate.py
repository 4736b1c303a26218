"""Robust accuracy: what is left when every attack has had its turn."""

import hashlib
import operator
import platform
import re
import time

import keras
import numpy as np
import scipy.stats

from keras_robust import attacks as attacks_module
from keras_robust import models
from keras_robust.calls import with_argument_advice
from keras_robust.evaluation.checkpoint import Checkpoint
from keras_robust.evaluation.checks.chance import measure_chance
from keras_robust.evaluation.checks.cheap_checks import cheap_checks
from keras_robust.evaluation.inputs import EvaluationInputs
from keras_robust.evaluation.metrics.curve import median_distance
from keras_robust.evaluation.metrics.curve import robustness_curve
from keras_robust.evaluation.metrics.per_class import accuracy_per_class
from keras_robust.evaluation.metrics.per_class import confusion
from keras_robust.evaluation.plan import PlannedAttack
from keras_robust.evaluation.plan import default_minimum_norm_attack
from keras_robust.evaluation.plan import has_single_norm
from keras_robust.evaluation.plan import plan_attacks
from keras_robust.evaluation.plan import warnings_of_attacks
from keras_robust.evaluation.reports.report import RobustnessReport
from keras_robust.evaluation.runner import AttackRunner
from keras_robust.evaluation.validation import decimal_radius
from keras_robust.evaluation.worst_case import WorstCase
from keras_robust.version import __version__


@with_argument_advice
@models.with_own_noise
def evaluate(  # noqa: PLR0913
    model,
    data,
    threat_model="linf",
    attacks="standard",
    *,
    num_examples=None,
    batch_size=256,
    seed=0,
    minimum_norm="auto",
    checkpoint=None,
    verbose=False,
):
    """Attacks a model with all it has got, and returns what is left of its accuracy.

    An example counts as robust if the model is right on it and on everything that any attack and
    restart made of it. The members of AutoAttack take turns, each on what those before left; of
    several other attacks each runs on every example. Each adversarial example is checked again,
    outside of the attack: it must be feasible, and the model must get it wrong. Then the nearest
    mistakes are searched, for the robustness curve over all radii. The model is left as it was.

    The report says with its `checks` whether to believe the number; `sanity_check` asks more.

    Args:
        model: `keras.Model`, or a callable that maps a batch to logits, such as a loaded
            SavedModel; for one that TensorFlow cannot trace, `BlackBox`. One column of a callable
            is the logit of class 1, never its probability.
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`; inputs within the bounds
            of the threat model; `x` may be a dict or list of several inputs. Use test data that
            training and model choice never saw.
        threat_model: a `ThreatModel` with a fixed radius, its name, or for several inputs a dict
            or list of such. Defaults to `"linf"`.
        attacks: `"standard"`, `"plus"` or `"rand"`, the versions of `AutoAttack` (threat models
            that it is not defined for get its `APGD` and `TargetedAPGD`, and `L0` gets `PGD` with
            50 steps and 10 restarts on cross-entropy and margin); `"black_box"`, random noise and
            `Square`, for models without gradients; or an attack, or a list of attacks, as objects
            or names. Defaults to `"standard"`.
        num_examples: int, the first so many examples; `None` for all. Defaults to `None`.
        batch_size: int. Does not change the result. Defaults to `256`.
        seed: int, of the random numbers. Defaults to `0`.
        minimum_norm: attack that looks for the nearest mistakes, for the curve, or `None` for no
            curve; `"auto"` for `TargetedFAB` on three targets (`FMN` in `L0`) if one of the attacks
            uses gradients. It needs a plain `L0`, `L1`, `L2` or `Linf` with one radius, and is left
            out elsewhere. A mistake that it finds in the ball counts as well. Defaults to `"auto"`.
        checkpoint: str, a file in which the state is kept while the evaluation runs: the same call
            after a kill goes on from there to the same result. `None` for none. Defaults to
            `None`.
        verbose: bool, whether to show a progress bar per attack. Defaults to `False`.

    Returns:
        A `RobustnessReport`.

    Raises:
        ValueError: for unknown names, empty, endless or invalid data, labels that are no class,
            targeted attacks, perturbations at a layer, which are no inputs that somebody could
            send, models without a gradient where an attack needs one, one column of outputs within
            [0, 1] of which nothing says if it is a logit, and a checkpoint of another evaluation.

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
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690), AutoAttack.
    """
    start, seed = time.perf_counter(), _index("seed", seed)
    question = EvaluationInputs.of(
        model, data, threat_model, num_examples=num_examples, batch_size=batch_size
    )
    model, x, labels, threat_model, logits = question
    plan = plan_attacks(attacks, threat_model, logits.shape[-1])
    measures = has_single_norm(threat_model)
    if minimum_norm == "auto":
        minimum_norm = default_minimum_norm_attack(plan, threat_model, logits.shape[-1])
    if minimum_norm is not None and measures:
        search = attacks_module.get_for_evaluation(minimum_norm)
        if not isinstance(search, attacks_module.MinimumNormAttack):
            raise ValueError(
                "Argument `minimum_norm` must be an attack that looks for the nearest mistake, "
                f'such as "fmn", or None. Received: minimum_norm={minimum_norm!r}'
            )
        plan.append(PlannedAttack(search, is_unbounded=True))
    worst = WorstCase(x, labels, logits, measures=measures)
    outputs = {"outputs of the model": logits}
    state = Checkpoint(checkpoint, _identity(worst, threat_model, plan, seed), outputs)
    runner = AttackRunner(model, worst, threat_model, batch_size=batch_size, seed=seed)
    runner.run(plan, state, verbose)
    checks = cheap_checks(model, worst, plan, runner.reports, threat_model, batch_size)
    report = RobustnessReport(
        **_summary(worst, threat_model, plan, runner.reports),
        warnings=[
            *_doubt_of_chance(worst),
            *warnings_of_attacks(plan, threat_model),
            *runner.warnings,
        ],
        checks=checks,
        seed=seed,
        batch_size=batch_size,
        versions=_versions(),
        seconds=state.seconds_before + time.perf_counter() - start,
    )
    state.remove()
    return report


def _index(name, value):
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"Argument `{name}` must be an int. Received: {value!r}") from error


def _versions():
    return {
        "keras_robust": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _identity(worst, threat_model, plan, seed):
    """What two evaluations must share for the one to go on where the other was stopped."""
    digest = hashlib.sha256()
    for leaf in [*keras.tree.flatten(worst.x), worst.y]:
        # The bytes of an array of objects, such as strings, are addresses.
        has_objects = leaf.dtype.kind == "O"
        digest.update(repr(leaf.tolist()).encode() if has_objects else leaf.tobytes())
    radius = decimal_radius(threat_model).tolist()
    return {
        "data": digest.hexdigest(),
        "threat_model": f"{threat_model!r} with epsilon {radius}",
        # Those of functions change with the process.
        "attacks": [re.sub(" at 0x[0-9a-f]+", "", repr(planned)) for planned in plan],
        "seed": seed,
        "version": __version__,
    }


def _summary(worst, threat_model, plan, reports):
    """Returns the fields of the report that follow from what was found."""
    size, num_classes = worst.logits.shape
    robust = int(worst.robust.sum())
    interval = scipy.stats.binomtest(robust, size).proportion_ci(0.95, method="exact")
    suites = {planned.suite for planned in plan if not planned.is_unbounded}
    search = [report for planned, report in zip(plan, reports, strict=True) if planned.is_unbounded]
    epsilon, curve = decimal_radius(threat_model).tolist(), None
    if search:
        curve = robustness_curve(worst.distances, epsilon=epsilon)
    return {
        "threat_model": {
            "class_name": type(threat_model).__name__,
            "config": threat_model.get_config(),
            "epsilon": epsilon,
        },
        "num_examples": size,
        "num_classes": num_classes,
        "clean_accuracy": float(worst.correct.mean()),
        "robust_accuracy": robust / size,
        "confidence": (float(interval.low), float(interval.high)),
        "attacks": reports,
        "suite": suites.pop() if len(suites) == 1 else None,
        "queries": sum(report.queries for report in reports),
        "curve": curve and {"attack": search[0].label, **curve},
        "median_distance": median_distance(worst.distances) if search else None,
        "inputs": _describe_inputs(worst.x),
        "per_class": accuracy_per_class(worst.y, worst.correct, worst.robust, num_classes),
        "confusion": confusion(worst.y, np.argmax(worst.adv_logits, axis=-1), num_classes),
        "x": worst.x,
        "y": worst.y,
        "x_adv": worst.x_adv,
        "logits": worst.logits,
        "adv_logits": worst.adv_logits,
        "distances": worst.distances if search else None,
    }


def _doubt_of_chance(worst):
    """Returns a list with what to say first of a model that does not classify, or without."""
    chance = measure_chance(worst.y, np.argmax(worst.logits, axis=-1))
    return [chance.doubt] if chance is not None and chance.doubt else []


def _describe_inputs(x):
    """Returns the range of the inputs and the size of one, or `None` for several inputs."""
    if keras.tree.is_nested(x):
        return None
    low, high = float(x.min()), float(x.max())
    return {"low": low, "high": high, "num_features": int(np.prod(x.shape[1:]))}
