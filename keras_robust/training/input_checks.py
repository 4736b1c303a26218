"""Checks of the inputs of a training batch."""

from keras import ops

from keras_robust.backend.requirement import Requirement
from keras_robust.configurable import short_repr
from keras_robust.models.batch_size import WRONG_SIZE
from keras_robust.models.batch_size import fixed_batch_size
from keras_robust.models.structures import is_sparse
from keras_robust.threat_models.parsing import box_slack

_TOLERANCE = 1e-3  # As a fraction of the width of the box.


def check_inputs(inputs, threat_model):
    """Returns a list of `Requirement`: inputs are finite, and lie in the bounds.

    Args:
        inputs: the inputs of the model, a tensor or a structure of tensors.
        threat_model: a `ThreatModel`; only inputs that it perturbs have bounds.
    """
    checks = []

    def check(leaf, name, ball):
        if ball is None and is_sparse(leaf):
            # The entries that a sparse tensor does not store are zeros, and need no check.
            leaf = leaf.data if hasattr(leaf, "data") else leaf.values
        dtype = str(getattr(leaf, "dtype", ""))
        if ball is not None or "float" in dtype:
            label = "Inputs" if name is None else f"The values of input `{name}`"
            checks.extend(_check_input(ops.cast(leaf, "float32"), label, ball))
        return leaf

    threat_model.map_inputs(check, inputs)
    return checks


def _check_input(x, label, threat_model):
    bad = ops.sum(ops.cast(ops.logical_not(ops.isfinite(x)), "int32"))
    checks = [
        Requirement(
            ops.equal(bad, 0),
            f"{label} must be finite. Clean the data, or drop the broken examples. "
            "Received: a batch with {} NaN or infinite values",
            (bad,),
        )
    ]
    if threat_model is not None and threat_model.bounds is not None:
        low, high = threat_model.bounds
        slack = box_slack(threat_model.bounds, _TOLERANCE)
        inside = ops.all(ops.logical_and(x >= low - slack, x <= high + slack))
        checks.append(
            Requirement(
                # NaN is reported by the first requirement only.
                ops.logical_or(inside, bad > 0),
                f"{label} must lie in the bounds of the threat model. Rescale them (images: "
                "divide by 255), or set the bounds to those of the inputs, with epsilon in the "
                "same units: Linf(8, bounds=(0, 255)). Received: a batch with values from {} "
                f"to {{}} under bounds={_show(threat_model.bounds)}",
                (ops.min(x), ops.max(x)),
            )
        )
    return checks


def attacked_inputs(inputs, threat_model):
    """Returns a pair of a threat model and the shape of an example for each perturbed input."""
    attacked = []

    def note(leaf, name, ball):
        if ball is not None:
            attacked.append((ball, tuple(leaf.shape[1:])))
        return leaf

    threat_model.map_inputs(note, inputs)
    return attacked


def share_of_range(inputs, threat_model):
    """Returns the radius as a fraction of the radius that makes every example feasible.

    With several inputs this is the largest fraction. It is 0 for a threat model whose radius is not
    in the units of the inputs, and for an input whose values are all the same.

    Returns:
        A scalar float32 tensor.
    """
    shares = [ops.zeros((), "float32")]

    def note(leaf, name, ball):
        if ball is not None and ball.order is not None:
            x = ops.cast(leaf, "float32")
            # The p-norm of `n` equal entries `d` is `d * n ** (1 / p)`.
            whole = (ops.max(x) - ops.min(x)) * _num_features(x) ** (1.0 / ball.order)
            # The maximum avoids a division by 0; the share is then set to 0.
            share = ops.max(ball.radius) / ops.maximum(whole, 1e-30)
            shares.append(ops.where(whole > 0.0, share, 0.0))
        return leaf

    threat_model.map_inputs(note, inputs)
    return ops.max(ops.stack(shares))


def _num_features(x):
    return ops.cast(ops.prod(ops.shape(x)[1:]), "float32")


def _show(bounds):
    # The text becomes a part of a template, in which braces are placeholders.
    return short_repr(tuple(bounds)).replace("{", "(").replace("}", ")").replace("\n", " ")


def check_size(model, x):
    """Returns a list of `Requirement`: the batch has the size for which the model was built."""
    wanted = fixed_batch_size(model)
    if wanted is None:
        return []
    size = ops.convert_to_tensor(ops.shape(x)[0])
    return [Requirement(ops.equal(size, wanted), WRONG_SIZE.format(wanted, "{}"), (size,))]
