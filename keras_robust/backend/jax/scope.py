"""JAX: scopes that make pure functions of code that reads and assigns Keras variables."""

from keras_robust.backend.keras_internals import NestedScope


class Scope(NestedScope):
    """Keeps the values that are assigned inside, and reads all others from the scope around it.

    Gradients, loops and compiled functions run their code in a scope. The assigned values must be
    returned as results, because they are tracers, which are not valid outside of the trace.

    Args:
        values: pairs of a `keras.Variable` and its value inside the scope.

    Attribute `touched`: dict of the variables that were read or assigned, by their ids.
    """

    def __init__(self, values=()):
        super().__init__(list(values), collect_losses=True)
        self.losses = _Losses()
        self.touched = {}
        self._assigned = {}

    def __enter__(self):
        super().__enter__()
        # Only the outermost scope initializes new variables: it ends outside of any trace.
        self.fill_new_variables(self.outer is None)
        return self

    def add_update(self, update):
        self.touched[id(update[0])] = self._assigned[id(update[0])] = update[0]
        super().add_update(update)

    def get_current_value(self, variable):
        self.touched[id(variable)] = variable
        value = super().get_current_value(variable)
        if value is None and self.outer is not None:
            return self.outer.get_current_value(variable)
        return value

    @property
    def assigned(self):
        """The variables that were assigned inside the scope."""
        return list(self._assigned.values())

    def values_of(self, variables):
        """Returns the values of variables inside the scope."""
        values = [self.get_current_value(variable) for variable in variables]
        pairs = zip(variables, values, strict=True)
        return [variable.value if value is None else value for variable, value in pairs]


class _Losses(list):
    """A list that removes items by identity.

    Keras removes losses by equality, which tracers do not support.
    """

    def remove(self, loss):
        del self[next(place for place, own in enumerate(self) if own is loss)]


def assign(variables, values):
    """Assigns values to variables, in the innermost open scope if there is one."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
