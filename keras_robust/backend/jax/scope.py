"""JAX: functions without side effects out of code that reads and assigns Keras variables."""

from keras_robust.backend.keras_internals import NestedScope


class Scope(NestedScope):
    """Keeps what is assigned inside, and reads what it does not hold from the scope around it.

    Gradients, loops and compiled functions run their code in one: what was assigned there must
    leave it as a result, since it is of no use outside of the trace in which it was computed.

    Args:
        values: pairs of a `keras.Variable` and the value that it has inside.

    Attribute `touched`: dict of the variables that were read or assigned, by their ids.
    """

    def __init__(self, values=()):
        super().__init__(list(values), collect_losses=True)
        self.losses = _Losses()
        self.touched = {}
        self._assigned = {}

    def __enter__(self):
        super().__enter__()
        # Variables made in the outermost scope are filled when it is left, outside of any trace.
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
        """The variables that were assigned inside."""
        return list(self._assigned.values())

    def values_of(self, variables):
        """Returns the values that variables have inside."""
        values = [self.get_current_value(variable) for variable in variables]
        pairs = zip(variables, values, strict=True)
        return [variable.value if value is None else value for variable, value in pairs]


class _Losses(list):
    """Keras removes losses by equality, which tracers do not have."""

    def remove(self, loss):
        del self[next(place for place, own in enumerate(self) if own is loss)]


def assign(variables, values):
    """Gives variables new values, in the scope that is open, if one is."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
