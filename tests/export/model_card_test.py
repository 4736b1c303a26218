import dataclasses

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.export.model_card import write_model_card
from keras_robust.layers import InputGuard
from tests.export.manifest_test import make
from tests.support import reports

X, Y = np.eye(3, dtype="float32"), np.array([0, 0, 2])


def model_card(**arguments):
    return write_model_card(
        {**make(**arguments), "signatures": ["certify", "logits", "serving_default"]}
    )


@pytest.mark.exhaustive
def test_numbers_attacks_and_doubts():
    report = kr.evaluate(lambda x: x, (X, Y), kr.L2(0.1), ["fgsm", "pgd"], minimum_norm=None)
    report = dataclasses.replace(report, warnings=["Look here."])
    text = model_card(report=report, data=(X, Y))
    assert "Threat model: L2, epsilon 0.1 of 0 to 1 in 3 features (5.8%)\n" in text
    assert "Accuracy without attack: 66.67%" in text
    assert "Robust accuracy: 66.67% (95% interval 9.43% to 99.16%, 3 examples)" in text
    assert "Attacks: FGSM, PGD-10\n- Warning: Look here.\n" in text
    assert "\n- SHA-256 of the examples: " in text
    # The other is that of the check which finds probabilities where logits should be.
    assert text.count("- Warning: ") == 2


def test_what_is_proved_is_a_lower_bound():
    certificates = ["linear", "interval"]
    arguments = {"minimum_norm": None, "certificates": certificates}
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    network.set_weights([np.eye(3), np.zeros(3)])
    report = kr.evaluate(network, (X, Y), kr.Linf(0.1), ["fgsm"], **arguments)
    text = model_card(report=report, data=(X, Y))
    assert "\n- Certified accuracy: 66.67%, a lower bound, by Linear, Interval\n" in text
    assert "Certified" not in model_card(report=reports.make())


def test_failed_checks_are_among_the_doubts_and_chance_is_the_first():
    x, y = np.tile(X, (40, 1)), np.tile(Y, 40)
    ball = kr.Linf(8 / 255, bounds=(0, 255))
    report = kr.evaluate(lambda x: 0.0 * x, (x, y), ball, "fgsm", minimum_norm=None)
    report_warnings = [
        line for line in model_card(report=report).splitlines() if line.startswith("- Warning")
    ]
    assert report_warnings[0].startswith("- Warning: Clean accuracy is at chance, 50.0%")
    assert any(
        line.startswith("- Warning: Check size of epsilon\\: failed") for line in report_warnings
    )


def test_a_card_without_a_report():
    assert "Not measured: no report was given." in model_card()
    assert "Indices only" in model_card()


def test_inputs_and_classes():
    text = model_card(guard=InputGuard((0, 2), outside="clip"), names=["a", "b", "c"])
    assert "| `x` | [None, 3] | float32 | clip: [0.0, 2.0] | reject |" in text
    assert "- 0: a\n- 1: b\n- 2: c\n" in text
    assert text.count("| `x` |") == 1
    assert "| float32 | no bounds | reject |" in model_card(guard=InputGuard(None))
    assert "| float32 | not guarded here | not guarded here |" in model_card()


def test_names_are_escaped_and_certificates_explain_seeds():
    text = model_card(names=["a_b", "<b>", "[c](d)"])
    assert "- 0: a\\_b\n- 1: \\<b\\>\n- 2: \\[c\\](d)\n" in text
    assert "tries several seeds" in text
    assert "seed" not in write_model_card({**make(), "signatures": ["logits"]})


FORGERY = "none\n\n## Robustness\n\n- Robust accuracy: 99.00%"
MARKUP = "<img src=x> [a](javascript:b) `c` &lt; $x$ @d ![e](f) http://g www.h.de ~~i~~ |j|"
ESCAPED = (
    "\\<img src=x\\> \\[a\\](javascript\\:b) \\`c\\` \\&lt; \\$x\\$ \\@d \\!\\[e\\](f) http\\://g "
    "www\\.h.de \\~\\~i\\~\\~ \\|j\\|"
)


def test_text_of_a_report_adds_nothing_to_the_card():
    attack = kr.evaluation.AttackReport(MARKUP, {"loss": MARKUP}, None, 2 / 6, 0.0, 1.0)
    own = {"class_name": MARKUP, "config": {"epsilon": FORGERY}, "epsilon": 0.1}
    report = reports.make(warnings=[FORGERY, MARKUP], attacks=[attack], threat_model=own)
    lines = model_card(report=report).splitlines()
    assert len(lines) == len(model_card(report=reports.make(warnings=["a", "b"])).splitlines())
    assert [line for line in lines if line.startswith("#")] == [
        line for line in model_card().splitlines() if line.startswith("#")
    ]
    assert f"- Warning: {ESCAPED}" in lines and f"- Attacks: {ESCAPED} {ESCAPED}" in lines
    assert "- Warning: none \\#\\# Robustness - Robust accuracy\\: 99.00%" in lines
    # The third is that of a check that failed.
    assert sum(line.startswith("- Warning: ") for line in lines) == 3
    (threat,) = [line for line in lines if line.startswith("- Threat model: ")]
    assert threat.startswith(f"- Threat model: {ESCAPED}, epsilon ")
    (accuracy,) = [line for line in lines if line.startswith("- Robust accuracy: ")]
    assert accuracy == "- Robust accuracy: 33.33% (95% interval 4.33% to 77.72%, 6 examples)"


def test_the_names_of_a_card_are_one_line():
    plain = {**make(), "signatures": []}
    plain["model"]["name"] = "a\n# b\x1b"
    plain["versions"] = {"keras\n# c": "<3>"}
    text = write_model_card(plain)
    assert text.startswith("# a \\# b\\\\x1b\n")
    assert "\n- keras \\# c \\<3\\>\n" in text


def test_inconsistent_reports_are_refused():
    for changes in ({"robust_accuracy": 0.99}, {"clean_accuracy": "99%"}, {"num_examples": 10**9}):
        with pytest.raises(ValueError, match="Received: report."):
            model_card(report=reports.make(**changes))


def test_the_card_explains_probabilities():
    assert "Probabilities are the output of the softmax" in model_card()
    plain = {**make(), "signatures": []}
    plain["model"]["smoothing"] = {"noise_stddev": 0.25, "num_samples": 7, "seed": None}
    text = write_model_card(plain)
    assert "votes of 7 copies of the input, with Gaussian noise of standard deviation 0.25" in text
    assert "softmax" not in text
