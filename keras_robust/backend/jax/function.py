"""JAX: compiled functions of tensors that may read and assign Keras variables."""

import jax
import keras

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign

# A function that creates variables in every trace would never stop being traced.
_MOST_TRACES = 3


class Function:
    """A function of structures of tensors, compiled once for each signature of its arguments.

    JAX compiles pure functions only. The variables that the function reads become additional
    arguments, and the variables that it assigns become additional results.

    Args:
        function: the function; its arguments may be `None`.
        given: list of variables whose values `call` takes and returns. Their memory is not donated,
            so that the old values remain if a call fails or is interrupted.
        others: list of other variables that the function may use. If some are missing, it is traced
            once more.
        is_compiled: bool; with `False` the function runs operation by operation.
    """

    def __init__(self, function, given=(), *, others=(), is_compiled=True):
        self._function = function
        self._given = list(given)
        self._others = list(others)
        self._signatures = set()
        self._is_compiled = is_compiled
        self._run = None

    def __call__(self, *arguments):
        """Returns the result of the function, and assigns the variables that it assigns."""
        result, _, updates = self.call([], *arguments)
        assign(*updates)
        return result

    def call(self, values, *arguments):
        """Returns the result of the function, the new values of `given`, and the assignments.

        The assignments are a pair: a list of variables, and their new values.

        Args:
            values: list, the values of `given`.
            *arguments: the arguments of the function.
        """
        if self._run is None:
            self._run = self._compiled(values) if self._is_compiled else self._pure
        if self._is_compiled:
            self._find_others(values, arguments)
        else:
            # Keras does not accept a mix of arrays and tensors as the inputs of a model.
            arguments = jax.tree.map(jax.numpy.asarray, arguments)
        held = [variable.value for variable in self._others]
        result, values, updates = self._run(values, held, arguments)
        if updates:
            # Wait, so that an error on the host is raised here, and not when the variable is read.
            jax.block_until_ready(updates)
        return result, values, ([self._others[place] for place in updates], updates.values())

    def _compiled(self, values):
        shardings = None
        if keras.distribution.distribution() is not None:
            # Keep the values where they are: otherwise XLA chooses their devices.
            shardings = (None, [value.sharding for value in values], None)
        return jax.jit(self._pure, out_shardings=shardings)

    def _find_others(self, values, arguments):
        """Adds to `others` the variables that are needed for arguments with this signature."""
        leaves, structure = jax.tree.flatten(arguments)
        signature = (structure, *((jax.numpy.shape(x), jax.numpy.result_type(x)) for x in leaves))
        if signature in self._signatures:
            return
        for _ in range(_MOST_TRACES):
            # A trace treats the value of an unknown variable as a constant, so trace again until no
            # variable is new. JAX caches the last trace for the call.
            known = len(self._others)
            held = [variable.value for variable in self._others]
            # The end of the scope initializes the variables that were created in the trace.
            with Scope():
                self._run.trace(values, held, arguments)
            if known == len(self._others):
                break
        self._signatures.add(signature)

    def _add(self, variables):
        """Adds the variables of a dict by id that are not known yet."""
        known = {id(variable) for variable in [*self._given, *self._others]}
        self._others += [one for key, one in variables.items() if key not in known]

    def _pure(self, values, held, arguments):
        """Runs the function without side effects; returns its result, `given` and the updates."""
        pairs = zip([*self._given, *self._others], [*values, *held], strict=True)
        with Scope(pairs) as scope:
            result = self._function(*arguments)
        self._add(scope.touched)
        new = dict(zip(map(id, scope.assigned), scope.values_of(scope.assigned), strict=True))
        given = [new.pop(id(v), value) for v, value in zip(self._given, values, strict=True)]
        places = {id(variable): place for place, variable in enumerate(self._others)}
        return result, given, {places[key]: value for key, value in new.items()}


class OpenFunction(Function):
    """A compiled function whose arguments have one row per example, for any number of rows.

    Without padding, every number of rows would be compiled anew. A call with fewer rows than an
    earlier call, but at least half as many, repeats its last row; the results of the added rows are
    dropped. The function must treat examples separately.
    """

    def __init__(self, function, *, others=()):
        super().__init__(function, others=others)
        self._sizes = set()

    def __call__(self, *arguments):
        """Calls the function with tensors or structures of tensors.

        An argument that was `None` in the first call must be `None` in all calls.
        """
        arguments = jax.tree.map(jax.numpy.asarray, arguments)
        size = len(jax.tree.leaves(arguments)[0])
        # Limit the computations for added rows to the cost of the given rows.
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
    # Arguments without a batch axis, such as a seed, are not padded.
    if not _has(leaf, size):
        return leaf
    last = jax.numpy.broadcast_to(leaf[-1:], (padded - size, *leaf.shape[1:]))
    return jax.numpy.concatenate([leaf, last])
