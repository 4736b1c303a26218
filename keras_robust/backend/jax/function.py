"""JAX: compiled functions of tensors that may read and assign Keras variables."""

import jax
import keras

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign

# Of a function that makes variables whenever it is traced, every trace meets new ones.
_MOST_TRACES = 3


class Function:
    """A function of structures of tensors, compiled once for each signature of its arguments.

    JAX knows pure functions only. The variables that the function reads become further arguments,
    and those that it assigns further results, so that it sees what they hold when it is called.

    Args:
        function: the function; its arguments may be `None`.
        given: list of variables whose values are an argument of `call`, and a result of it. They
            are not donated: where a call fails or is interrupted, they are what there is.
        others: list of further variables that it may need; where some are missing, it is traced
            once more.
        is_compiled: bool; `False` has it run operation by operation.
    """

    def __init__(self, function, given=(), *, others=(), is_compiled=True):
        self._function = function
        self._given = list(given)
        self._others = list(others)
        self._signatures = set()
        self._is_compiled = is_compiled
        self._run = None

    def __call__(self, *arguments):
        """Returns what the function returns."""
        result, _, updates = self.call([], *arguments)
        assign(*updates)
        return result

    def call(self, values, *arguments):
        """Returns what the function returns, the new values of `given`, and what it assigns.

        That is a pair, a list of variables and one of the values that are to be theirs.

        Args:
            values: list, the values of `given`.
            *arguments: those of the function.
        """
        if self._run is None:
            self._run = self._compiled(values) if self._is_compiled else self._pure
        if self._is_compiled:
            self._find_others(values, arguments)
        else:
            # Keras refuses to mix arrays and tensors in the inputs of a model.
            arguments = jax.tree.map(jax.numpy.asarray, arguments)
        held = [variable.value for variable in self._others]
        result, values, updates = self._run(values, held, arguments)
        if updates:
            # Errors on the host come now, and not with the value of a variable.
            jax.block_until_ready(updates)
        return result, values, ([self._others[place] for place in updates], updates.values())

    def _compiled(self, values):
        shardings = None
        if keras.distribution.distribution() is not None:
            # Otherwise XLA chooses where the new values are.
            shardings = (None, [value.sharding for value in values], None)
        return jax.jit(self._pure, out_shardings=shardings)

    def _find_others(self, values, arguments):
        """Finds the variables beside `given` that are needed for arguments like these."""
        leaves, structure = jax.tree.flatten(arguments)
        signature = (structure, *((jax.numpy.shape(x), jax.numpy.result_type(x)) for x in leaves))
        if signature in self._signatures:
            return
        for _ in range(_MOST_TRACES):
            # A trace that meets a variable for the first time takes its value for a constant. The
            # last of these is kept by JAX, for the call.
            known = len(self._others)
            held = [variable.value for variable in self._others]
            # In a scope, at the end of which variables are filled that were made in the trace.
            with Scope():
                self._run.trace(values, held, arguments)
            if known == len(self._others):
                break
        self._signatures.add(signature)

    def _add(self, variables):
        """Adds those that are not known yet; `variables` is a dict by id."""
        known = {id(variable) for variable in [*self._given, *self._others]}
        self._others += [one for key, one in variables.items() if key not in known]

    def _pure(self, values, held, arguments):
        pairs = zip([*self._given, *self._others], [*values, *held], strict=True)
        with Scope(pairs) as scope:
            result = self._function(*arguments)
        self._add(scope.touched)
        new = dict(zip(map(id, scope.assigned), scope.values_of(scope.assigned), strict=True))
        given = [new.pop(id(v), value) for v, value in zip(self._given, values, strict=True)]
        places = {id(variable): place for place, variable in enumerate(self._others)}
        return result, given, {places[key]: value for key, value in new.items()}


class OpenFunction(Function):
    """A function whose arguments have one row per example, and may have any number of rows.

    Every number of rows would be compiled anew. Calls with fewer rows, but at least half of those
    that an earlier call had, repeat the last row until they are as many; what is computed for it is
    thrown away. The function must treat examples apart.
    """

    def __init__(self, function, *, others=()):
        super().__init__(function, others=others)
        self._sizes = set()

    def __call__(self, *arguments):
        """Calls it with tensors, structures of tensors, or `None` where it was so at first."""
        arguments = jax.tree.map(jax.numpy.asarray, arguments)
        size = len(jax.tree.leaves(arguments)[0])
        padded = min((own for own in self._sizes if size <= own <= 2 * size), default=size)
        self._sizes.add(padded)
        if padded == size:
            return super().__call__(*arguments)
        arguments = jax.tree.map(lambda leaf: _pad(leaf, size, padded), arguments)
        result = super().__call__(*arguments)
        return jax.tree.map(lambda leaf: leaf[:size] if _has(leaf, padded) else leaf, result)


def _has(leaf, size):
    return leaf.ndim > 0 and len(leaf) == size


def _pad(leaf, size, padded):
    if not _has(leaf, size):
        return leaf
    last = jax.numpy.broadcast_to(leaf[-1:], (padded - size, *leaf.shape[1:]))
    return jax.numpy.concatenate([leaf, last])
