"""What an attack gets for one search on one batch."""

import inspect
import types
import typing


class SearchProblem(typing.NamedTuple):
    """The arguments of `Attack.search`, for one search from one start.

    Fields: `classifier`, a `models.Classifier`; `x`, float `(batch_size, ...)`, the clean examples
    inside the bounds of the threat model; `y`, the labels, or `None`; `threat_model`, a
    `ThreatModel` whose radius is known; `seed`, int32 `(2,)` or `(batch_size, 2)`; `keep_best`,
    bool, whether to return the best point visited, with its true loss and success; `restart`, int
    or int32 `()`, the number of this search; `is_shared`, bool, whether `x` is one perturbation for
    all examples of `y`, so that the loss is their mean.

    With `keep_best`, an example that is misclassified from the start is returned unchanged. Without
    it the last point is returned, and its loss and success have no meaning. Targeted attacks choose
    their target class by `restart`. Attacks whose restarts differ only in the random start do not
    need it.
    """

    classifier: object
    x: object
    y: object
    threat_model: object
    seed: object
    keep_best: object = True
    restart: object = 0
    is_shared: object = False


def check_takes_problem(cls, name):
    """Raises TypeError if a class defines the method `name` without `problem` as its argument."""
    method = vars(cls).get(name)
    if not isinstance(method, types.FunctionType):
        return
    signature = inspect.signature(method)
    try:
        signature.bind("self", "problem")
    except TypeError:
        raise TypeError(
            f"`{name}` of an attack takes one argument, a `SearchProblem`. Write "
            f"`def {name}(self, problem):`, and read `problem.classifier`, `problem.x`, "
            "`problem.y`, `problem.threat_model`, `problem.seed`, `problem.keep_best` and "
            f"`problem.restart`. Received: class {cls.__name__} with `def {name}{signature}`"
        ) from None
