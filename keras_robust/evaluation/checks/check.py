"""The outcome of one check of an evaluation."""

import dataclasses
import math

VERDICTS = ("passed", "failed", "skipped")


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of one check of an evaluation.

    Args:
        name: str, what was checked.
        value: number, the measured value; `None` if there is none. NaN and infinite values become
            `None`, because JSON cannot hold them.
        threshold: number, the value that `value` was compared with; `None` if there is none.
        verdict: `"passed"`, `"failed"` or `"skipped"`.
        advice: str, what to do next, or why the check was skipped. Defaults to `""`.

    Raises:
        ValueError: for an unknown verdict.

    Example:

    >>> import keras_robust as kr
    >>> check = kr.evaluation.Check("iterative beats one-step", -0.02, 0.005, "passed")
    >>> print(check)
    iterative beats one-step: passed (value -0.02, threshold 0.005)
    """

    name: str
    value: float | None
    threshold: float | None
    verdict: str
    advice: str = ""

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"Argument `verdict` must be one of {', '.join(VERDICTS)}. "
                f"Received: verdict={self.verdict!r}"
            )
        for field in ("value", "threshold"):
            number = getattr(self, field)
            number = None if number is None or not math.isfinite(number) else float(number)
            # A frozen dataclass refuses a plain assignment.
            object.__setattr__(self, field, number)

    def __str__(self):
        figures = ((word, getattr(self, word)) for word in ("value", "threshold"))
        shown = ", ".join(f"{word} {number:.4g}" for word, number in figures if number is not None)
        text = f"{self.name}: {self.verdict}" + (f" ({shown})" if shown else "")
        return f"{text}. {self.advice}" if self.advice else text


def count_verdicts(checks):
    """Returns text such as `3 passed, 2 skipped`, without verdicts that no check has."""
    verdicts = [check.verdict for check in checks]
    return ", ".join(f"{verdicts.count(word)} {word}" for word in VERDICTS if word in verdicts)


def summarise_verdicts(checks):
    """Returns text such as `1 of 4 failed` or `4 of 4 ok`, without the skipped checks."""
    done = [check for check in checks if check.verdict != "skipped"]
    failed = sum(check.verdict == "failed" for check in done)
    if failed or not done:
        return f"{failed} of {len(done)} failed" if failed else count_verdicts(checks)
    return f"{len(done)} of {len(done)} ok"
