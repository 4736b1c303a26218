"""Random combinations of everything: each trains and evaluates, or is refused in our words.

More of them: KERAS_ROBUST_FUZZ_EXAMPLES=200, or `python -m benchmarks.fuzz`.
"""

import os

import hypothesis
import pytest

import keras_robust as kr
from benchmarks import fuzz_cases as fuzz
from tests.support import tiers

EXAMPLES = int(os.environ.get("KERAS_ROBUST_FUZZ_EXAMPLES", "14"))
USUAL = {name: choices[0] for name, (choices, _) in fuzz._CHOICES.items()}


@pytest.mark.exhaustive
@hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(fuzz.cases())
# What it has found before: none of them said what was wrong.
@hypothesis.example({**USUAL, "labels": "two", "source": "PyDataset"})
@hypothesis.example({**USUAL, "weights": "rows", "objective": "kurakin"})
@hypothesis.example({**USUAL, "head": "sequence", "source": "single examples"})
@hypothesis.example({**USUAL, "loss": "hinge", "attack": "compiled"})
def test_a_case_trains_and_evaluates_or_is_refused_in_our_words(case):
    assert fuzz.run(case)


def test_the_usual_case_trains_and_evaluates():
    assert fuzz.run(USUAL) == "trained, evaluated"


@pytest.mark.exhaustive
def test_refusals_of_ours_and_of_keras_are_told_apart():
    assert fuzz.run({**USUAL, "labels": "too high"}) == "refused by us"
    assert fuzz.run({**USUAL, "loss": "nothing"}) == "refused by us"
    assert fuzz.run({**USUAL, "ball": "wide"}).startswith(("refused by us", "trained"))


@pytest.mark.exhaustive
@tiers.parametrize("error", [RuntimeError("raw"), ValueError("raw"), KeyError("raw")])
def test_what_is_raised_in_other_words_is_found(monkeypatch, error):
    def fail(self, callback):
        raise error

    monkeypatch.setattr(kr.AdvTrain, "_install", lambda self: fail(self, None))
    # The frame of `on_train_begin` is one of ours.
    with pytest.raises(type(error)):
        fuzz.run(USUAL)


@pytest.mark.exhaustive
def test_silent_damage_is_found(monkeypatch):
    monkeypatch.setitem(fuzz.LOSSES, "sparse", lambda: lambda y, outputs: outputs[:, 0] / 0.0)
    with pytest.raises(AssertionError, match="loss|weights"):
        fuzz.run({**USUAL, "attack": "fgsm"})
