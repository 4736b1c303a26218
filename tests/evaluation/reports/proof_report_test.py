import dataclasses
import json

import keras_robust as kr
from keras_robust.evaluation.reports.proof_report import ProofReport


def test_the_settings_are_those_of_the_certificate():
    certificate = kr.certification.Crown("L2", bounds=None, max_radius=0.25, num_steps=0)
    numbers = {"num_examples": 5, "num_proved": 3, "num_broken": 1, "seconds": 0.5}
    found = ProofReport.of(certificate, **numbers)
    settings = {"norm": "L2", "bounds": None, "max_radius": 0.25, "num_steps": 0}
    assert found == ProofReport("Crown", {**settings, "chunk_size": 1024}, 5, 3, 1, 0.5)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["num_proved"] == 3


def test_other_arguments_become_text():
    found = ProofReport.of(
        kr.certification.Interval(), num_examples=1, num_proved=0, num_broken=0, seconds=1.0
    )
    assert found.settings == {"bounds": "[0.0, 1.0]", "max_radius": None, "num_steps": 20}
