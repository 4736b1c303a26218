"""Which attacks an evaluation runs, and on which examples."""

import dataclasses
import functools

import numpy as np

from keras_robust import attacks as attacks_module
from keras_robust import threat_models
from keras_robust.attacks.attack import registry
from keras_robust.attacks.auto_attack import VERSIONS
from keras_robust.attacks.step_reach import step_size_complaint

_NORMS = (threat_models.L1, threat_models.L2, threat_models.Linf)
_LOSSES = ("cross_entropy", "margin")
_SHORT_SUITE = "APGD"


@dataclasses.dataclass(frozen=True)
class PlannedAttack:
    """One attack of an evaluation.

    Args:
        attack: an `Attack`.
        suite: str, the suite whose member it is, which sees only what the members before it left;
            `None` for an attack on every example that the model gets right.
        is_unbounded: bool, whether it looks for the nearest mistakes at any distance.
    """

    attack: object
    suite: str | None = None
    is_unbounded: bool = False


def plan_attacks(attacks, threat_model, num_classes):
    """Returns the list of `PlannedAttack` for what `evaluate` was given as `attacks`."""
    items = attacks if isinstance(attacks, (list, tuple)) else [attacks]
    if not items:
        raise ValueError("Expected at least one attack. Received: attacks=[]")
    plan = []
    for item in items:
        plan += _turns_of(item, threat_model, num_classes)
    return plan


def _turns_of(item, threat_model, num_classes):
    item = item.lower() if isinstance(item, str) else item
    if isinstance(item, str) and item == "black_box":
        if not isinstance(threat_model, _NORMS):
            raise ValueError(
                'attacks="black_box" runs Square, which knows one input, in Linf, L2 or L1. Use '
                "attacks=[kr.attacks.RandomNoise()], a weak attack, or attack each input alone. "
                f"Received: a threat model of class {type(threat_model).__name__}"
            )
        members = [attacks_module.RandomNoise(), attacks_module.Square()]
        return [PlannedAttack(member, "black box") for member in members]
    if isinstance(item, str) and item in VERSIONS:
        if item == "standard" and isinstance(threat_model, threat_models.L0):
            strength = {"num_steps": 50, "num_restarts": 10}
            members = [attacks_module.PGD(loss=loss, **strength) for loss in _LOSSES]
            return [PlannedAttack(member, "PGD") for member in members]
        if item == "standard" and not isinstance(threat_model, _NORMS):
            members = [attacks_module.APGD(), _targeted(num_classes)]
            return [PlannedAttack(member, _SHORT_SUITE) for member in members]
        item = _auto_attack(item)
    if isinstance(item, str) and registry.find(item) is None:
        raise registry.unknown(item, others=(*VERSIONS, "black_box"))
    attack = attacks_module.get_for_evaluation(item)
    if isinstance(attack, attacks_module.AutoAttack):
        members = attack.members(threat_model, num_classes)
        return [PlannedAttack(member, f"AutoAttack {attack.version}") for member in members]
    return [PlannedAttack(attack)]


def warnings_of_attacks(plan, threat_model):
    """Returns a list of what makes the choice of the attacks doubtful, for the report."""
    report_warnings = (step_size_complaint(planned.attack, threat_model) for planned in plan)
    found = [doubt for doubt in report_warnings if doubt]
    if any(planned.suite == _SHORT_SUITE for planned in plan):
        found.append(
            "AutoAttack knows one input, in Linf, L2 or L1. For this threat model "
            '"standard" is APGD with two losses, without FAB and Square: a weaker suite.'
        )
    if all(map(_is_weak, plan)):
        names = ", ".join(sorted({type(planned.attack).__name__ for planned in plan}))
        found.append(
            f"Only weak attacks ran, {names}: stronger ones break more. Use "
            'attacks="standard" before you call this number robust accuracy.'
        )
    return found


def _is_weak(planned):
    """Whether an attack takes one step, or does not look at the answers of the model."""
    is_search = planned.is_unbounded or hasattr(planned.attack, "num_queries")
    return not is_search and getattr(planned.attack, "num_steps", 1) == 1


def default_minimum_norm_attack(plan, threat_model, num_classes):
    """Returns the search for the nearest mistakes, or `None` if no attack uses gradients."""
    if not any(planned.attack.uses_gradients for planned in plan):
        return None
    return _search(isinstance(threat_model, threat_models.L0), min(num_classes - 1, 3))


@functools.cache
def _search(is_sparse, num_targets):
    if is_sparse:
        return attacks_module.FMN()
    return attacks_module.TargetedFAB(num_targets=num_targets)


@functools.cache
def _auto_attack(version):
    """Returns the same object for every evaluation, with what it has compiled."""
    return attacks_module.AutoAttack(version)


def _targeted(num_classes):
    loss = "dlr" if num_classes > 3 else "margin"
    return attacks_module.TargetedAPGD(num_targets=min(num_classes - 1, 9), loss=loss)


def has_single_norm(threat_model):
    """Whether there is one norm and one radius, so that distances can be compared."""
    is_norm = isinstance(threat_model, (*_NORMS, threat_models.L0))
    return is_norm and np.size(threat_model.radius) == 1
