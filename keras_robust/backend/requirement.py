"""Conditions that a batch must fulfill, checked where the computation runs."""

import typing


class Requirement(typing.NamedTuple):
    """A condition that a batch must fulfill.

    Fields: `condition`, a scalar bool tensor; `template`, the error message if the condition is
    false; `values`, scalar tensors, one for each `{}` in the template.
    """

    condition: object
    template: str
    values: tuple
