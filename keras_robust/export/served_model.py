"""The model that an export writes: a classifier, its inputs, and the guards in front of them."""

import dataclasses

import keras

from keras_robust.backend.keras_internals import input_tensors_of
from keras_robust.export.guards import guards_within
from keras_robust.export.prediction_function import PredictionFunction


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A classifier behind a guard for each of its inputs.

    Args:
        model: built classifier.
        inputs: `Inputs` of the model.
        guards: list of `InputGuard` or `None`, one for each input, as from `choose_guards`.
    """

    model: object
    inputs: object
    guards: list

    def apply_guards(self, tensors):
        """Returns a list of the inputs behind their guards."""
        pairs = zip(tensors, self.guards, strict=True)
        return [x if guard is None else guard(x) for x, guard in pairs]

    def prediction_function(self):
        """Returns the guarded model as a `PredictionFunction` of a list of input tensors."""
        return PredictionFunction(
            self.model, pack=lambda tensors: self.inputs.pack(self.apply_guards(tensors))
        )

    @property
    def scale_guard(self):
        """The `InputGuard` that states the range of the only input, or `None`.

        This is the guard in front of the model, or the guard that is its first layer. A guard
        behind other layers does not state the range of the input.
        """
        guard = self.guards[0]
        if guard is not None or not self.inputs.specs[0].dtype.is_floating:
            return guard
        model = self.model
        inputs = {id(tensor) for tensor in keras.tree.flatten(getattr(model, "inputs", []))}
        is_sequential = isinstance(model, keras.Sequential)
        for found in guards_within(model):
            taken = set(map(id, input_tensors_of(found)))
            if found is model.layers[0] if is_sequential else inputs & taken:
                return found
        return None

    @property
    def bounds(self):
        """List of the bounds of every input, with `None` for unknown bounds."""
        guards = [self.scale_guard] if len(self.guards) == 1 else self.guards
        return [None if guard is None else guard.bounds for guard in guards]

    def first_rows(self, data, count=8):
        """Returns a list of arrays: the first examples of the data, or random ones for `None`.

        Args:
            data: `(x, y)`, or `None`.
            count: int, the number of examples.
        """
        if data is None:
            return self.inputs.random_examples(count, self.bounds)
        return [array[:count] for array in self.inputs.unpack(data[0])]
