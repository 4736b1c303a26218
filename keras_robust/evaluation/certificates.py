"""The certificates of an evaluation: which run, and what they prove of the examples."""

import inspect
import time
import typing

import keras
import numpy as np

from keras_robust import models
from keras_robust import threat_models
from keras_robust.certificate import Certificate
from keras_robust.certificate import registry
from keras_robust.configurable import short_repr
from keras_robust.evaluation.black_box import BlackBox
from keras_robust.evaluation.reports.proof_report import ProofReport
from keras_robust.threat_models.enclosing import enclosing

# Exactly these classes, because a subclass may allow more.
_NORMS = {threat_models.L1: "L1", threat_models.L2: "L2", threat_models.Linf: "Linf"}


class PlannedCertificate(typing.NamedTuple):
    """A `Certificate`, and the radius that a proof must reach, a float."""

    certificate: Certificate
    radius: float


def plan_certificates(certificates, model, threat_model, x):
    """Returns the list of `PlannedCertificate` for the argument `certificates` of `evaluate`.

    Each is set to the one radius and the box that hold all points that count as feasible.

    Args:
        certificates: `None`, a name, a `Certificate`, or a list of them.
        model: a model or a callable, as in `evaluate`.
        threat_model: a `ThreatModel`.
        x: the clean inputs, an array or a structure of arrays.

    Raises:
        ValueError: if a proof would not be about the model under this threat model.
    """
    if certificates is None:
        return []
    _check_model(model, x)
    norm = _norm_of(threat_model)
    radius, bounds = enclosing(threat_model, x)
    items = certificates if isinstance(certificates, (list, tuple)) else [certificates]
    found = [_certificate(item, norm, radius, bounds) for item in items]
    for certificate in found:
        _check(certificate, norm, threat_model.bounds)
    return [PlannedCertificate(one.at_radius(radius, bounds), radius) for one in found]


def _check_model(model, x):
    """Raises ValueError for models of which no certificate has a proof."""
    received, reason = None, ""
    if keras.tree.is_nested(x):
        received = f"inputs {list(x) if isinstance(x, dict) else len(x)}"
        reason = "is about a model with one input, and this model has several"
    elif isinstance(model, BlackBox):
        received, reason = "a BlackBox", "needs the layers of a model, and a black box has none"
    if received is not None:
        raise ValueError(
            f"A certificate {reason}: leave `certificates` out, or evaluate a keras.Model of "
            f"known layers with one input. Received: {received}"
        )


def _norm_of(threat_model):
    """Returns the name of the norm, for a threat model of which certificates have proofs."""
    norm = _NORMS.get(type(threat_model))
    if norm is None or np.size(threat_model.radius) != 1:
        raise ValueError(
            "Certificates need a threat model Linf, L2 or L1 with one radius for all examples and "
            "features: leave `certificates` out, or evaluate each radius alone. "
            f"Received: {threat_model!r}"
        )
    return norm


def _certificate(item, norm, radius, bounds):
    """Returns the certificate for an object, or for a name with the arguments that it needs."""
    cls = registry.find(item) or item
    if not isinstance(cls, type) or not issubclass(cls, Certificate):
        return registry.get(item)
    given = {"norm": norm, "radius": radius, "max_radius": radius, "bounds": bounds}
    known = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in given.items() if name in known})


def _check(certificate, norm, bounds):
    """Raises ValueError unless a proof is about the model on the whole set of feasible points."""
    if not certificate.is_about_model:
        expected = (
            "certificates of the model itself. Randomized smoothing is about the vote over noisy "
            'copies, with a probability of error: use kr.certify(model, data, "smoothing") for '
            'the vote, and "crown", "interval", "complete", "linear" or "lipschitz" here'
        )
    elif certificate.norm != norm:
        expected = (
            f'certificates in {norm}, the norm of the threat model. Use "crown", which has all '
            f"norms, or a threat model {certificate.norm}"
        )
    elif not _holds(certificate.bounds, bounds):
        expected = (
            "certificates whose bounds hold those of the threat model, or their proofs leave out "
            f"feasible points. Give a name, or bounds={short_repr(bounds)}"
        )
    else:
        return
    raise ValueError(f"Expected {expected}. Received: {certificate!r} in {certificate.norm}")


def _holds(outer, inner):
    """Returns whether a box, a pair or `None` for no box, holds another one."""
    if outer is None or inner is None:
        return outer is None
    low, high = (np.asarray(end) for end in inner)
    return bool(np.all(outer[0] <= low) and np.all(outer[1] >= high))


def prove(planned, model, worst, threat_model, *, batch_size, **arguments):
    """Runs a certificate on the examples that are neither broken nor proved.

    Args:
        planned: a `PlannedCertificate`.
        model: a model or a callable, as in `evaluate`.
        worst: a `WorstCase`, which learns what is proved, and the counterexamples.
        threat_model: a `ThreatModel`.
        batch_size: int.
        **arguments: `seed` and `verbose`, for `certify`.

    Returns:
        A `ProofReport`.
    """
    start, certificate = time.perf_counter(), planned.certificate
    rows = np.flatnonzero(worst.robust & ~worst.proved)
    if len(rows):
        x = worst.x[rows]
        found = certificate.certify(model, x, batch_size=batch_size, **arguments)
        is_proved = (found.predictions == worst.y[rows]) & (found.radii >= planned.radius)
        worst.prove(rows[is_proved])
        _judge(found, model, worst, rows, threat_model, batch_size)
    return ProofReport.of(
        certificate,
        num_examples=len(rows),
        num_proved=int((worst.proved & worst.robust)[rows].sum()),
        num_broken=int((~worst.robust[rows]).sum()),
        seconds=time.perf_counter() - start,
    )


def _judge(found, model, worst, rows, threat_model, batch_size):
    """Updates the worst case with the counterexamples of a certificate."""
    if found.counterexamples is None or not np.isfinite(found.broken_radii).any():
        return
    is_found = np.isfinite(found.broken_radii)
    rows = rows[is_found]
    # The certificate looked at a radius that is larger by rounding errors.
    points = np.asarray(threat_model.project(found.counterexamples[is_found], worst.x[rows]))
    worst.update(rows, points, models.predict_logits(model, points, batch_size), threat_model)
