"""Robust accuracy: the accuracy that is left after all attacks."""

import hashlib
import json
import operator
import re
import time

import keras
import numpy as np

from keras_robust import models
from keras_robust.attacks.progress import is_shown
from keras_robust.attacks.worst_case import WorstCase
from keras_robust.calls import with_argument_advice
from keras_robust.configurable import fingerprint
from keras_robust.evaluation.certificates import plan_certificates
from keras_robust.evaluation.checkpoint import Checkpoint
from keras_robust.evaluation.checks.chance import measure_chance
from keras_robust.evaluation.checks.cheap_checks import cheap_checks
from keras_robust.evaluation.checks.cheap_checks import sizes_of
from keras_robust.evaluation.inputs import EvaluationInputs
from keras_robust.evaluation.plan import has_single_norm
from keras_robust.evaluation.plan import plan_attacks
from keras_robust.evaluation.plan import plan_search
from keras_robust.evaluation.plan import warnings_of_attacks
from keras_robust.evaluation.reports.report import RobustnessReport
from keras_robust.evaluation.reports.shard_record import ShardRecord
from keras_robust.evaluation.runner import AttackRunner
from keras_robust.evaluation.shard import Shard
from keras_robust.evaluation.summary import summarize
from keras_robust.evaluation.versions import library_versions
from keras_robust.threat_models.decimal_radius import decimal_radius
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
    certificates=None,
    checkpoint=None,
    shard=None,
    verbose="auto",
):
    """Attacks a model, and returns a report of its robust accuracy.

    An example counts as robust if the model classifies it correctly, and also every point that any
    attack or restart found for it. The members of AutoAttack run in turn, each on the examples that
    are still robust. In a list of other attacks, each runs on all correctly classified examples.
    Each adversarial example is checked again outside of the attack: it must be feasible, and the
    model must misclassify it. Then a minimum-norm attack searches for the nearest mistakes, for the
    robustness curve over all radii. The model does not change.

    With `certificates`, these run first. An example that is proved robust is not attacked, except
    by the minimum-norm attack, whose distances a proof does not tell. Robust accuracy is the same,
    because no attack breaks a proved example, and the share of the proved examples is a lower bound
    of it: the report has the outcome of each example, "broken", "proved" or "inconclusive".

    The `checks` of the report say whether to believe the number; `sanity_check` runs more checks.

    Args:
        model: `keras.Model`, or a callable that maps a batch to logits, such as a loaded
            SavedModel. Wrap a callable that TensorFlow cannot trace in a `BlackBox`. If a callable
            returns one column, it is the logit of class 1, never its probability.
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`, with inputs within the
            bounds of the threat model; `x` may be a dict or list of several inputs. Use test data
            that neither training nor model selection used.
        threat_model: a `ThreatModel` with a fixed radius, its name, or for several inputs a dict
            or list of threat models. Defaults to `"linf"`.
        attacks: `"standard"`, `"plus"` or `"rand"`, the versions of `AutoAttack`; `"black_box"`,
            random noise and `Square`, for models without gradients; or an attack, or a list of
            attacks, as objects or names. `"standard"` also works for threat models that AutoAttack
            does not support: `L0` gets `PGD` with 50 steps and 10 restarts on cross-entropy and
            margin, `Affine` gets `GridSearch` and `APGD`, `Universal` gets `APGD`, and all others
            get `APGD` and `TargetedAPGD`. Defaults to `"standard"`.
        num_examples: int, evaluates only the first `num_examples` examples; `None` for all.
            Defaults to `None`.
        batch_size: int. Does not change the result, except for what `Complete` leaves undecided in
            its time. Defaults to `256`.
        seed: int, the seed of the random numbers. Defaults to `0`.
        minimum_norm: the minimum-norm attack for the robustness curve, or `None` for no curve.
            `"auto"` is `TargetedFAB` on three targets (`FMN` in `L0`) if one of the attacks uses
            gradients, else `None`. The curve needs `L0`, `L1`, `L2` or `Linf` with one radius; for
            other threat models there is none. A mistake that this attack finds in the ball also
            lowers robust accuracy. Defaults to `"auto"`.
        certificates: a `certification.Certificate` of the norm of the threat model or its name,
            `"crown"`, `"alpha_crown"`, `"interval"`, `"complete"`, `"linear"` or `"lipschitz"`, or
            a list of them, each for the examples that those before it left undecided. They run at
            the radius and in the bounds of the threat model, a little enlarged for rounding,
            whatever radius they have themselves. A counterexample of `"complete"` breaks an example
            as an attack does. `None` for no proofs. Defaults to `None`.
        checkpoint: str, the file that holds the state while the evaluation runs. After a kill, the
            same call resumes from the file and returns the same result, except for what `Complete`
            leaves undecided in its time. `None` for no file. Defaults to `None`.
        shard: str, `"3/16"` evaluates the examples 3, 19, 35, ... of `data` alone, with the random
            numbers that they have among all examples, so that 16 processes share the work;
            `RobustnessReport.merge` makes one report of theirs. Every process gets the same `data`,
            and runs the model once on all of them. All batches are filled up to `batch_size`, so
            that a result has the same bits in any number of shards, `"0/1"` for one, if
            `batch_size` is a multiple of 16; but certificates fill no batches, and the attack of
            `Complete` numbers the examples of a shard anew. The checkpoint stays at the end, so
            that a shard that is run again is done at once. `None` for all examples. Defaults to
            `None`.
        verbose: bool, whether to show a progress bar per attack, with the share of the examples
            that are still robust. `"auto"` shows it in terminals and notebooks, and nothing where
            the output goes to a file or a pipe. Defaults to `"auto"`.

    Returns:
        A `RobustnessReport`.

    Raises:
        ValueError: for unknown names; for empty, endless or invalid data; for labels that are not
            classes; for targeted attacks; for perturbations at a layer, because an attacker can
            send only inputs; for models without a gradient if an attack needs one; for one output
            column within [0, 1] that may be a logit or a probability; for certificates that say
            nothing about this model or threat model; for more shards than examples; and for a
            checkpoint of another evaluation.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.array([[0.2, 0.8], [0.4, 0.5], [0.9, 0.1]], "float32")
    >>> y = np.array([1, 1, 0])
    >>> report = kr.evaluate(lambda x: 10.0 * x, (x, y), kr.Linf(0.1), attacks="pgd")
    >>> print(f"{report.clean_accuracy:.2f} {report.robust_accuracy:.2f}")
    1.00 0.67
    >>> kr.evaluate(lambda x: x, (x, y), kr.Linf(0.1), "pgd", certificates="linear").outcomes
    ['proved', 'broken', 'proved']

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705), on evaluating robustness.
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690), AutoAttack.
    """
    start, seed, verbose = time.perf_counter(), _index("seed", seed), is_shown(verbose)
    shard = None if shard is None else Shard.of(shard)
    inputs = EvaluationInputs.of(
        model, data, threat_model, num_examples=num_examples, batch_size=batch_size
    )
    model, x, labels, threat_model, logits = inputs
    if shard is not None:
        _check_has_shards(threat_model, shard)
    plan = plan_attacks(attacks, threat_model, logits.shape[-1])
    plan += plan_search(minimum_norm, plan, threat_model, logits.shape[-1])
    certificates = plan_certificates(certificates, model, threat_model, x)
    worst, ball = _examples_of(shard, inputs)
    identity = _identity(inputs, plan, seed) | _identity_of_proofs(certificates, model)
    if shard is not None:
        # Batches of another size round differently, so they make a foreign shard.
        identity["batch_size"] = batch_size
    state = _state(checkpoint, identity, shard, worst)
    runner = AttackRunner(model, worst, ball, batch_size=batch_size, seed=seed)
    runner.run(plan, state, verbose, certificates)
    report = RobustnessReport(
        **summarize(worst, threat_model, plan, runner.reports, runner.proofs),
        warnings=[
            *_chance_warnings(labels, logits),
            *warnings_of_attacks(plan, threat_model),
            *runner.warnings,
        ],
        checks=cheap_checks(inputs, worst, plan, runner.reports, batch_size),
        seed=seed,
        batch_size=batch_size,
        shard=None if shard is None else _record(shard, identity, inputs, worst, plan, runner),
        versions=library_versions(),
        seconds=state.seconds_before + time.perf_counter() - start,
    )
    # Remove the checkpoint only when nothing can fail any more.
    if shard is None:
        state.remove()
    return report


def _check_has_shards(threat_model, shard):
    if threat_model.shares_perturbation:
        raise ValueError(
            "A perturbation that all examples share needs all of them in one process: leave out "
            f"`shard`. Received: shard='{shard}' under {threat_model!r}"
        )


def _examples_of(shard, inputs):
    """Returns the `WorstCase` of the examples of a shard, and the threat model with their radii."""
    _, x, labels, threat_model, logits = inputs
    measures = has_single_norm(threat_model)
    if shard is None:
        return WorstCase(x, labels, logits, measures=measures), threat_model
    rows = shard.rows(len(labels))
    # A radius for all examples stays as the user wrote it.
    if np.size(threat_model.radius) > 1:
        threat_model = threat_model.with_epsilon(threat_model.epsilon_for_rows(rows, x))
    part = models.take(x, rows), labels[rows], logits[rows]
    return WorstCase(*part, measures=measures, numbers=rows), threat_model


def _state(path, identity, shard, worst):
    """Returns the `Checkpoint`."""
    # The clean logits identify the model, whose weights may not be accessible.
    outputs = {"outputs of the model": worst.logits}
    return Checkpoint(path, {**identity, "shard": shard and str(shard)}, outputs)


def _record(shard, identity, inputs, worst, plan, runner):
    """Returns the `ShardRecord`, which tells shards of different evaluations apart."""
    facts = {**identity, "model": _identity_of_model(inputs), "versions": library_versions()}
    evaluation = {
        "num_examples": len(inputs.labels),
        "digests": {name: _digest([np.array(json.dumps(fact))]) for name, fact in facts.items()},
    }
    sizes = sizes_of(inputs.x, inputs.threat_model)
    return ShardRecord.of(shard, evaluation, worst, plan, runner.reports, sizes)


def _identity_of_model(inputs):
    """Returns what tells models apart: architecture and weights, or what they predict."""
    model = inputs.model
    if not isinstance(model, keras.Layer):
        # Devices round differently, but predict the same classes.
        return _digest([np.argmax(inputs.logits, axis=-1)])
    try:
        architecture = json.dumps(model.get_config(), sort_keys=True, default=repr)
    except NotImplementedError:  # A subclass of `keras.Model` need not have a config.
        architecture = type(model).__name__
    # Addresses, and the numbers in names that Keras chose, differ between processes.
    architecture = re.sub(r' at 0x[0-9a-f]+|_\d+(?=")', "", architecture)
    return [architecture, *map(np.shape, model.get_weights()), _digest(model.get_weights())]


def _index(name, value):
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"Argument `{name}` must be an int. Received: {value!r}") from error


def _identity(inputs, plan, seed):
    """Returns what two evaluations must share so that one can resume the other.

    Args:
        inputs: the `EvaluationInputs`.
        plan: list of the planned attacks.
        seed: int.
    """
    radius = decimal_radius(inputs.threat_model).tolist()
    return {
        "data": _digest([*keras.tree.flatten(inputs.x), inputs.labels]),
        # The repr of a threat model shows long arrays by their range alone.
        "threat_model": {"epsilon": radius, "arguments": fingerprint(inputs.threat_model)},
        # The repr of a function contains its address.
        "attacks": [re.sub(" at 0x[0-9a-f]+", "", repr(planned)) for planned in plan],
        "seed": seed,
        # Another version may compute other results from the same state.
        "version": __version__,
    }


def _identity_of_proofs(certificates, model):
    """Returns what else evaluations must share, because proofs are about the weights."""
    has_weights = bool(certificates) and isinstance(model, keras.Layer)
    return {
        "certificates": [fingerprint(planned.certificate) for planned in certificates],
        "weights": _digest(model.get_weights()) if has_weights else None,
    }


def _digest(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        # An array of objects, such as strings, holds addresses, so hash the values instead.
        has_objects = array.dtype.kind == "O"
        digest.update(repr(array.tolist()).encode() if has_objects else array.tobytes())
    return digest.hexdigest()


def _chance_warnings(labels, logits):
    """Returns a list with a warning if clean accuracy is at chance, else an empty list."""
    chance = measure_chance(labels, np.argmax(logits, axis=-1))
    return [chance.warning] if chance is not None and chance.warning else []
