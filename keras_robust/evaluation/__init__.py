"""Robust accuracy, and whether to believe it."""

from keras_robust.evaluation.evaluate import evaluate
from keras_robust.evaluation.evaluate import standard_attacks
from keras_robust.evaluation.picture import draw_examples
from keras_robust.evaluation.report import AttackReport
from keras_robust.evaluation.report import RobustnessReport
from keras_robust.evaluation.report import compare

__all__ = [
    "AttackReport",
    "RobustnessReport",
    "compare",
    "draw_examples",
    "evaluate",
    "standard_attacks",
]
