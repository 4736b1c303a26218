"""The report of one certificate of an evaluation."""

import dataclasses

from keras_robust.evaluation.reports.attack_report import to_json


@dataclasses.dataclass(frozen=True)
class ProofReport:
    """The result of one certificate in an evaluation.

    Args:
        name: str, the class of the certificate.
        settings: dict, its constructor arguments. Radius and bounds are a little larger than those
            of the threat model, by the rounding errors that attacks may make.
        num_examples: int, the number of examples that it ran on: those that the model classifies
            correctly and that no certificate before it decided.
        num_proved: int, how many of them it proved robust.
        num_broken: int, how many of them it broke by a counterexample that the model confirmed.
        seconds: float, wall time.
    """

    name: str
    settings: dict
    num_examples: int
    num_proved: int
    num_broken: int
    seconds: float

    @classmethod
    def of(cls, certificate, **fields):
        """Returns the report of a certificate, with its settings as values that JSON can hold."""
        settings = {name: to_json(value) for name, value in certificate.get_config().items()}
        return cls(name=type(certificate).__name__, settings=settings, **fields)
