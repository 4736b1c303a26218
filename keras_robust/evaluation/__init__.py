"""Robust accuracy, and checks of whether to believe it."""

from keras_robust.calls import explain_calls
from keras_robust.evaluation.black_box import BlackBox
from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.corruption.corrupt import corrupt
from keras_robust.evaluation.corruption.corruption_report import CorruptionReport
from keras_robust.evaluation.corruption.corruptions import corruptions
from keras_robust.evaluation.distribute import distribute
from keras_robust.evaluation.evaluate import evaluate
from keras_robust.evaluation.metrics.curve import median_distance
from keras_robust.evaluation.metrics.curve import robustness_curve
from keras_robust.evaluation.metrics.per_class import accuracy_per_class
from keras_robust.evaluation.metrics.per_class import confusion
from keras_robust.evaluation.reports.attack_report import AttackReport
from keras_robust.evaluation.reports.example_plot import draw_examples
from keras_robust.evaluation.reports.proof_report import ProofReport
from keras_robust.evaluation.reports.report import RobustnessReport
from keras_robust.evaluation.reports.sanity_report import SanityReport
from keras_robust.evaluation.reports.table import compare
from keras_robust.evaluation.sanity_check import sanity_check

explain_calls([BlackBox])

__all__ = [
    "AttackReport",
    "BlackBox",
    "Check",
    "CorruptionReport",
    "ProofReport",
    "RobustnessReport",
    "SanityReport",
    "accuracy_per_class",
    "compare",
    "confusion",
    "corrupt",
    "corruptions",
    "distribute",
    "draw_examples",
    "evaluate",
    "median_distance",
    "robustness_curve",
    "sanity_check",
]
