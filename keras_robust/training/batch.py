"""One batch of a training, with all that an objective may need to know about it."""

import typing


class Batch(typing.NamedTuple):
    """What one train step works on.

    Fields: `x`, float `(batch_size, ...)`, what the attacker changes; `y`, the labels;
    `sample_weight`, `(batch_size,)` or `None`, class weights included; `threat_model`, whose radius
    is known; `iteration`, an integer `()` in the dtype of `optimizer.iterations`, the optimizer
    steps so far, at which schedules are read; `seed`, int32 `(2,)`, another one for every batch and
    replica; `delta`, shape of `x`, what an objective with `persistent_delta` left behind at the
    last batch, or `None`; `memory`, the variables that `new_objective_state` of the objective made
    for this `fit`, or `None`.
    """

    x: object
    y: object
    sample_weight: object
    threat_model: object
    iteration: object
    seed: object
    delta: object = None
    memory: object = None
