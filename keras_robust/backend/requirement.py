"""A condition that must hold for a batch, checked where the computation runs."""

import typing


class Requirement(typing.NamedTuple):
    """What must hold for a batch.

    Fields: `condition`, a scalar bool tensor; `template`, what to say where it does not hold;
    `values`, scalar tensors, one for each `{}` in the template.
    """

    condition: object
    template: str
    values: tuple
