"""One batch of a training, with all that an objective may use."""

import typing


class Batch(typing.NamedTuple):
    """The data of one train step.

    Fields: `x`, float `(batch_size, ...)`, the tensor that the attacker changes; `y`, the labels;
    `sample_weight`, `(batch_size,)` or `None`, class weights included; `threat_model`, with the
    radius of this step; `iteration`, an integer `()` in the dtype of `optimizer.iterations`, the
    number of optimizer steps so far, at which schedules are evaluated; `seed`, int32 `(2,)`, a
    different one for every batch and replica; `delta`, shape of `x`, the perturbation that an
    objective with `persistent_delta` kept from the last batch, or `None`; `objective_state`, the
    variables that `new_objective_state` of the objective created for this `fit`, or `None`.
    """

    x: object
    y: object
    sample_weight: object
    threat_model: object
    iteration: object
    seed: object
    delta: object = None
    objective_state: object = None
