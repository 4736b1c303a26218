"""The errors of a baseline, by which corruption errors are normalized."""

import numbers

import numpy as np

from keras_robust.configurable import short_repr
from keras_robust.evaluation.corruption.corruption_report import CorruptionReport
from keras_robust.evaluation.corruption.severities import NUM_SEVERITIES

_EXPECTED = (
    "Argument `baseline` must be a model, a CorruptionReport, or a dict with the error under each "
    f"kind: a mean over the severities, or a list of {NUM_SEVERITIES}, as shares from 0 to 1"
)


def baseline_errors(baseline, kinds, parameters, num_classes):
    """Returns a dict with the mean error under each kind, and the clean error or `None`.

    Args:
        baseline: a `CorruptionReport`, or a dict from each kind to a number or a list of numbers,
            and from `"clean"` to the error without corruptions, which may be missing.
        kinds: list of str.
        parameters: str, the published set of which the corruptions have the parameters.
        num_classes: int.

    Raises:
        ValueError: for a dict without one of the kinds or with numbers that are no errors, and for
            a report on other parameters or classes.
    """
    if isinstance(baseline, CorruptionReport):
        if (baseline.parameters, baseline.num_classes) != (parameters, num_classes):
            raise ValueError(
                f"Expected a baseline under the corruptions of {parameters} with {num_classes} "
                f"classes. Received: parameters={baseline.parameters!r}, "
                f"num_classes={baseline.num_classes}"
            )
        baseline = {"clean": 1.0 - baseline.clean_accuracy} | dict(
            zip(baseline.kinds, (1.0 - baseline.accuracy).tolist(), strict=True)
        )
    if not isinstance(baseline, dict):
        raise ValueError(f"{_EXPECTED}. Received: baseline={short_repr(baseline)}")
    missing = [kind for kind in kinds if kind not in baseline]
    if missing:
        raise ValueError(f"{_EXPECTED}. Received: a baseline without {', '.join(missing)}")
    clean = baseline.get("clean")
    errors = {kind: _mean_error(kind, baseline[kind]) for kind in kinds}
    return {"clean": None if clean is None else _mean_error("clean", clean), **errors}


def _mean_error(kind, given):
    """Returns the mean of the errors of a kind, or raises ValueError."""
    is_list = isinstance(given, (list, tuple)) or np.ndim(given) == 1
    errors = list(given) if is_list else [given]
    has_size = not is_list or len(errors) == NUM_SEVERITIES
    if not has_size or not all(isinstance(one, numbers.Real) and 0 <= one <= 1 for one in errors):
        raise ValueError(f"{_EXPECTED}. Received: {short_repr(given)} for {kind}")
    return float(np.mean(errors))
