"""Certificates: proven bounds on the robustness of a model."""

from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certificate import registry
from keras_robust.certification.certificate_report import CertificateReport
from keras_robust.certification.certify import certify
from keras_robust.certification.complete import Complete
from keras_robust.certification.crown import AlphaCrown
from keras_robust.certification.crown import Crown
from keras_robust.certification.interval import Interval
from keras_robust.certification.interval import interval_margins
from keras_robust.certification.linear import Exact
from keras_robust.certification.linear import Linear
from keras_robust.certification.linear import exact_linear
from keras_robust.certification.lipschitz import Lipschitz
from keras_robust.certification.smoothed_radius import smoothed_radius
from keras_robust.certification.smoothing import Smoothing

ALL = (AlphaCrown, Complete, Crown, Interval, Linear, Lipschitz, Smoothing)
registry.extend(ALL)
get = registry.get

__all__ = [
    "ALL",
    "AlphaCrown",
    "Certificate",
    "CertificateReport",
    "CertificationResult",
    "Complete",
    "Crown",
    "Exact",
    "Interval",
    "Linear",
    "Lipschitz",
    "Smoothing",
    "certify",
    "exact_linear",
    "get",
    "interval_margins",
    "smoothed_radius",
]
