"""The plan of an evaluation: which attacks run, and on which examples."""

import functools

import numpy as np

from keras_robust import attacks as attacks_module
from keras_robust import threat_models
from keras_robust.attacks.attack import registry
from keras_robust.attacks.auto_attack import VERSIONS
from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.attacks.step_reach import step_size_complaint

_NORMS = (threat_models.L1, threat_models.L2, threat_models.Linf)
_LOSSES = ("cross_entropy", "margin")
_SHORT_SUITE = "APGD"


def plan_attacks(attacks, threat_model, num_classes):
    """Returns the list of `PlannedAttack` for the argument `attacks` of `evaluate`."""
    items = attacks if isinstance(attacks, (list, tuple)) else [attacks]
    if not items:
        raise ValueError("Expected at least one attack. Received: attacks=[]")
    plan = []
    for item in items:
        plan += _planned_attacks(item, threat_model, num_classes)
    if threat_model.shares_perturbation and len(plan) > 1:
        raise ValueError(
            "Robust accuracy against one perturbation for all examples takes one attack: several "
            "attacks find several perturbations. "
            f"Received: {len(plan)} attacks under {threat_model!r}"
        )
    return plan


def _planned_attacks(item, threat_model, num_classes):
    """Returns the list of `PlannedAttack` for an attack, its name, or the name of a suite."""
    if isinstance(item, str):
        # Names of attacks ignore case as well.
        item = item.lower()
        if item == "black_box":
            return _black_box_suite(threat_model)
        if item == "standard" and not isinstance(threat_model, _NORMS):
            return _short_suite(threat_model, num_classes)
        item = _attack_of_name(item)
    attack = attacks_module.get_for_evaluation(item)
    if isinstance(attack, attacks_module.AutoAttack):
        members = attack.members(threat_model, num_classes)
        return [PlannedAttack(member, f"AutoAttack {attack.version}") for member in members]
    return [PlannedAttack(attack)]


def _black_box_suite(threat_model):
    """Returns the list of `PlannedAttack` of the suite "black_box"."""
    if not isinstance(threat_model, _NORMS):
        raise ValueError(
            'attacks="black_box" runs Square, which supports one input, in Linf, L2 or L1. Use '
            "attacks=[kr.attacks.RandomNoise()], a weak attack, or attack each input alone. "
            f"Received: a threat model of class {type(threat_model).__name__}"
        )
    # The cheap attack first: Square then runs on fewer examples.
    members = [attacks_module.RandomNoise(), attacks_module.Square()]
    return [PlannedAttack(member, "black box") for member in members]


def _short_suite(threat_model, num_classes):
    """Returns the list of `PlannedAttack` of "standard" where AutoAttack has no support."""
    if isinstance(threat_model, threat_models.L0):
        strength = {"num_steps": 50, "num_restarts": 10}
        members = [attacks_module.PGD(loss=loss, **strength) for loss in _LOSSES]
        return [PlannedAttack(member, "PGD") for member in members]
    if isinstance(threat_model, threat_models.Affine):
        members = [attacks_module.GridSearch(threat_model.grid), attacks_module.APGD()]
        return [PlannedAttack(member, "grid") for member in members]
    if threat_model.shares_perturbation:
        return [PlannedAttack(attacks_module.APGD())]
    members = [attacks_module.APGD(), _targeted(num_classes)]
    return [PlannedAttack(member, _SHORT_SUITE) for member in members]


def _attack_of_name(name):
    """Returns an `AutoAttack` for the name of a version, and the name of an attack unchanged."""
    if name in VERSIONS:
        return _auto_attack(name)
    if registry.find(name) is None:
        raise registry.unknown(name, others=(*VERSIONS, "black_box"))
    return name


def warnings_of_attacks(plan, threat_model):
    """Returns the warnings of the report about the choice of attacks."""
    complaints = (step_size_complaint(planned.attack, threat_model) for planned in plan)
    found = [complaint for complaint in complaints if complaint]
    if any(planned.suite == _SHORT_SUITE for planned in plan):
        found.append(
            "AutoAttack supports one input, in Linf, L2 or L1. For this threat model "
            '"standard" runs APGD with two losses, without FAB and Square, a weaker suite.'
        )
    if all(map(_is_weak, plan)):
        names = ", ".join(sorted({type(planned.attack).__name__ for planned in plan}))
        found.append(
            f"Only weak attacks ran, {names}: stronger ones break more. Use "
            'attacks="standard" before you call this number robust accuracy.'
        )
    return found


def _is_weak(planned):
    """Returns whether an attack takes only one step, or ignores the outputs of the model."""
    is_search = planned.is_unbounded or hasattr(planned.attack, "num_queries")
    # Attacks without steps, such as random noise, count as one step.
    return not is_search and getattr(planned.attack, "num_steps", 1) == 1


def plan_search(minimum_norm, plan, threat_model, num_classes):
    """Returns the planned minimum-norm attack for the curve, in a list, or an empty list.

    Args:
        minimum_norm: as for `evaluate`.
        plan: list of `PlannedAttack`, the attacks before it.
        threat_model: a `ThreatModel`.
        num_classes: int.
    """
    if minimum_norm == "auto":
        minimum_norm = default_minimum_norm_attack(plan, threat_model, num_classes)
    if minimum_norm is None or not has_single_norm(threat_model):
        return []
    search = attacks_module.get_for_evaluation(minimum_norm)
    if not isinstance(search, attacks_module.MinimumNormAttack):
        raise ValueError(
            'Argument `minimum_norm` must be a minimum-norm attack, such as "fmn", or None. '
            f"Received: minimum_norm={minimum_norm!r}"
        )
    return [PlannedAttack(search, is_unbounded=True)]


def default_minimum_norm_attack(plan, threat_model, num_classes):
    """Returns the minimum-norm attack for "auto", or `None` if no attack uses gradients."""
    if not any(planned.attack.uses_gradients for planned in plan):
        return None
    return _minimum_norm_attack(isinstance(threat_model, threat_models.L0), min(num_classes - 1, 3))


@functools.cache
def _minimum_norm_attack(is_sparse, num_targets):
    """Returns the same object for every evaluation, so that its compiled code is reused."""
    if is_sparse:
        return attacks_module.FMN()
    return attacks_module.TargetedFAB(num_targets=num_targets)


@functools.cache
def _auto_attack(version):
    """Returns the same object for every evaluation, so that its compiled code is reused."""
    return attacks_module.AutoAttack(version)


def _targeted(num_classes):
    # The targeted DLR loss needs at least four classes.
    loss = "dlr" if num_classes > 3 else "margin"
    return attacks_module.TargetedAPGD(num_targets=min(num_classes - 1, 9), loss=loss)


def has_single_norm(threat_model):
    """Returns whether there is one norm and one radius, so that distances are comparable."""
    is_norm = isinstance(threat_model, (*_NORMS, threat_models.L0))
    return is_norm and np.size(threat_model.radius) == 1
