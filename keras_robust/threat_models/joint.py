"""A threat model for several inputs that share one budget."""

import keras

from keras_robust.threat_models.layout import Layout
from keras_robust.threat_models.layout import map_named
from keras_robust.threat_models.threat_model_wrapper import ThreatModelWrapper


@keras.saving.register_keras_serializable(package="keras_robust")
class Joint(ThreatModelWrapper):
    """Perturbs several inputs of a model within one budget, as if they were one input.

    The inputs are flattened and concatenated, and the threat model applies to the result: with
    `L2`, `sqrt(sum_inputs ||delta_input||^2) <= epsilon`. The attacker chooses where to spend the
    budget. Use it if the inputs have the same units. Otherwise, or if every input has its own
    budget, use `PerInput`. Inputs that are not named are not changed.

    Args:
        threat_model: a `ThreatModel` or its name. If the `epsilon` of `Linf` is an array, it has
            one value for each feature of the concatenated inputs.
        inputs: list of the names of the inputs, or of their positions in a list or tuple.
        bounds: list with one pair `(low, high)`, or `None`, for each of `inputs`, if their boxes
            differ from that of the threat model. Defaults to `None`: all inputs have the box of the
            threat model.

    Raises:
        ValueError: without inputs, or if the numbers of `bounds` and inputs differ. Once data are
            known: for names that are not inputs, and for arrays that do not fit.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[-3.0, 3.0], [-4.0, 4.0]], "float32")
    >>> def model(inputs):
    ...     return inputs["a"] @ weights[:1] + inputs["b"] @ weights[1:]
    >>> x, y = {"a": np.array([[0.5]]), "b": np.array([[0.5]])}, np.array([1])
    >>> x_adv = kr.attacks.FGSM()(model, x, y, kr.threat_models.Joint(kr.L2(0.1), ["a", "b"]))
    >>> print({name: round(value.item(), 3) for name, value in x_adv.items()})
    {'a': 0.44, 'b': 0.42}

    References:
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083), the problem for one input.
    """

    def __init__(self, threat_model, inputs, bounds=None):
        super().__init__(threat_model)
        if isinstance(inputs, str) or not inputs or len(set(inputs)) < len(inputs):
            raise ValueError(
                'Argument `inputs` must list different names or positions, such as ["a", "b"]. '
                f"Received: inputs={inputs!r}"
            )
        own = None if bounds is None else list(bounds)
        if own is not None and len(own) != len(inputs):
            raise ValueError(
                "Argument `bounds` must have one entry for each of `inputs`, a pair or None. "
                f"Received: {len(own)} entries for inputs={inputs!r}"
            )
        self.inputs = list(inputs)
        self._given = {"threat_model": self.threat_model, "inputs": self.inputs, "bounds": own}
        boxes = [self.threat_model] * len(inputs)
        if own is not None:
            boxes = [self.threat_model.with_bounds(pair) for pair in own]
        self._boxes = dict(zip(inputs, boxes, strict=True))

    def with_bounds(self, bounds):
        """Returns a copy in which every input has this box."""
        other = self.around(self.threat_model.with_bounds(bounds))
        other._boxes = {name: box.with_bounds(bounds) for name, box in self._boxes.items()}
        other._given["bounds"] = None
        return other

    def bind(self, model, inputs):
        layout = Layout(inputs, self.inputs)
        self.check_shape((None, sum(layout.sizes)))
        bounds = layout.join_bounds([box.bounds for box in self._boxes.values()])
        bound = self.around(self.threat_model.with_bounds(bounds))
        return layout.join(inputs), layout.classifier(model, inputs), bound

    def map_inputs(self, function, inputs):
        # Only for its errors about names and shapes.
        self.bind(None, inputs)
        return map_named(function, inputs, self._boxes)

    def pack(self, x_adv, inputs):
        return Layout(inputs, self.inputs).replace(inputs, x_adv)

    def contains(self, x_adv, x, tolerance=1e-5):
        if not keras.tree.is_nested(x):
            return super().contains(x_adv, x, tolerance)
        joined, _, bound = self.bind(None, x)
        return bound.contains(Layout(x, self.inputs).join(x_adv), joined, tolerance)
