"""The interface of all attacks, and how an attack runs over a data set."""

import weakref

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.dataset_attack import DatasetAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import strongest
from keras_robust.attacks.search_problem import SearchProblem
from keras_robust.attacks.search_problem import check_takes_problem
from keras_robust.attacks.universal_search import search_universal
from keras_robust.calls import with_argument_advice
from keras_robust.configurable import Configurable
from keras_robust.registry import Registry


class Attack(Configurable):
    """Searches the feasible set of a threat model for the input that a model gets wrong.

    An attack runs in three ways. `attack(model, x, y, threat_model)` takes arrays or, inside a
    traced function, tensors. `attack.run(...)` also reports which examples were broken.
    `attack.perturb(...)` is for the train step of `AdvTrain`. Subclasses write `search(problem)`.

    Subclasses may set three class attributes. `stays_in_ball = False` marks an attack for training
    only, whose points may lie outside of the threat model; it cannot be used for evaluation.
    `uses_gradients = False` marks an attack that needs no gradient of the model, so that masked
    gradients do not hinder it. `tolerates_rounding = True` marks an attack that computes gradients
    at points well apart, so that the model may run in half precision.
    """

    num_restarts = 1
    stays_in_ball = True
    uses_gradients = True
    tolerates_rounding = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        check_takes_problem(cls, "search")

    def search(self, problem):
        """Runs one search from one start on a `SearchProblem`, and returns `AttackResult`."""
        raise NotImplementedError

    def search_drawn(self, problem):
        """Runs one search after the threat model has made its random choices, such as a place."""
        if problem.threat_model.shares_perturbation:
            return search_universal(self, problem)
        drawn = problem.threat_model.drawn(problem.x, problem.seed)
        return self.search(problem._replace(threat_model=drawn))

    @staticmethod
    def score_clean(problem, score):
        """Returns `AttackResult` of the clean examples, the best points before a search.

        `score` is a function that `make_attack_loss` returned. Two queries count, because making it
        has evaluated the clean examples as well.
        """
        return AttackResult.scored(problem.x, score, queries=2)

    @staticmethod
    def leave_mistakes(clean, best):
        """Returns `best`, but unchanged the examples that the model gets wrong from the start.

        Only their queries come from `best`; all else comes from `clean`, which `score_clean`
        returned.
        """
        return choose(clean.success, clean, best)._replace(queries=best.queries)

    def perturb(self, classifier, x, y, threat_model, seed):
        """Returns `AttackResult` for one batch, inside a traced train step."""
        problem = SearchProblem(classifier, x, y, threat_model, seed)
        with classifier.attack_scope(x):
            # Training needs only the last point, which saves the passes that judge it.
            if self.num_restarts == 1:
                return self.search_drawn(problem._replace(keep_best=False))
            # Restarts are compared, so that every search must judge its best point.
            best = None
            for restart in range(self.num_restarts):
                one = problem._replace(seed=backend.fold_in(seed, restart), restart=restart)
                found = self.search_drawn(one)
                best = found if best is None else strongest(best, found)
            return best

    @with_argument_advice
    def __call__(
        self, model, x, y=None, threat_model="linf", *, batch_size=256, seed=0, verbose=False
    ):
        """Returns adversarial examples for `x`: an array for an array, a tensor for a tensor.

        Args:
            model: a `keras.Model` or a callable that returns logits. Its weights, statistics,
                modes, random state and the state of stateful layers are not changed.
            x: `(n, ...)`, float, inside the bounds of the threat model. For a model with several
                inputs it is a dict or list of arrays, and the result has the same structure.
            y: labels `(n,)` or rows `(n, num_classes)`. With `None` the predictions of the model
                are used.
            threat_model: a `ThreatModel` or its name; a dict or list of them for several inputs.
            batch_size: int, the number of examples per batch. The result does not depend on it, up
                to rounding.
            seed: int. Inside a traced function it may also be a tensor of shape `()` or `(2,)`,
                such as `optimizer.iterations`.
            verbose: bool, whether to show a progress bar.

        Raises:
            ValueError: if the inputs are empty, not finite or out of bounds, if the numbers of
                labels and examples differ, if a label is not a class of the model, or if the model
                returns one column within [0, 1] and its loss does not say whether this is a logit.
        """
        if isinstance(x, threat_models.ThreatModel):
            raise ValueError(
                f"An attack is called with `(model, x, y, threat_model)`. Received: x={x!r}"
            )
        if isinstance(y, threat_models.ThreatModel):
            raise ValueError(
                "The third argument of an attack is the labels `y`. Pass the threat model as "
                f"`threat_model=` when there are no labels. Received: y={y!r}"
            )
        threat_model = threat_models.get(threat_model)
        leaves = keras.tree.flatten(x)
        if any(backend.is_symbolic(leaf) for leaf in leaves):
            seed = ops.cast(seed, "int32")
            seed = seed if len(seed.shape) else ops.stack([seed, 0])
            exposed, classifier, ball = threat_model.bind(model, x)
            return threat_model.pack(self.perturb(classifier, exposed, y, ball, seed).x_adv, x)
        found = self.run(
            model, x, y, threat_model, batch_size=batch_size, seed=seed, verbose=verbose
        )
        if all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return found.x_adv
        return keras.tree.map_structure(ops.convert_to_tensor, found.x_adv)

    @with_argument_advice
    @models.with_own_noise
    def run(self, model, x, y, threat_model, *, rows=None, batch_size=256, seed=0, verbose=False):
        """Attacks a data set and returns `AttackResult` with NumPy arrays.

        Each restart visits only the examples that no earlier one has broken. The random numbers of
        an example depend on its position in `x`, `seed` and the restart, not on its batch.

        Args:
            model: as when called.
            x: as when called.
            y: as when called.
            threat_model: as when called.
            rows: int array, the examples to attack. The result then holds these examples only.
                `None` attacks all examples.
            batch_size: as when called.
            seed: as when called.
            verbose: as when called.
        """
        run = DatasetAttack(
            self, model, x, y, threat_model, rows=rows, batch_size=batch_size, seed=seed
        )
        for _ in run.with_progress(verbose):
            pass
        return run.found()

    def clone(self, **changes):
        """Returns a copy of this attack with some constructor arguments changed."""
        return type(self)(**{**self._arguments(), **changes})

    def get_config(self):
        return self._arguments()

    def __getstate__(self):
        # Compiled functions cannot be copied, so a copy compiles its own when it needs them.
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def compiled(self, model, threat_model, x, y):
        """Returns the `Compiled` search for `model` and data like these.

        The compiled search is kept as long as the model lives.
        """
        # Weak keys, so that the attack does not keep models alive.
        kept = self.__dict__.setdefault("_kept", weakref.WeakKeyDictionary())
        loss = getattr(model, "loss", None)
        # The radius is an argument of the compiled function and no part of the key.
        rules = {**threat_model.get_config(), "epsilon": None}
        # One function per shape of an example: TensorFlow would merge two shapes into an unknown
        # one.
        arrays = keras.tree.flatten((x, y, threat_model.radius))
        shapes = tuple(
            None if a is None else (len(a.shape), *a.shape[1:], str(a.dtype)) for a in arrays
        )
        key = (type(threat_model), repr(rules), shapes, repr(loss))
        functions = kept.setdefault(model, {})
        if key not in functions:
            functions[key] = Compiled(self, weakref.ref(model), threat_model)
        return functions[key]


class Compiled:
    """Runs `Attack.search` compiled for a model, to which it holds a weak reference.

    Attributes: `num_classes`, int, the number of classes if the search has asked the model for
    logits, else `None`; `has_unknown_column`, whether the model has one column of outputs and
    nothing says whether these are logits or probabilities.
    """

    def __init__(self, attack, model, threat_model):
        self.num_classes, self.has_unknown_column = None, False

        def search(x, y, epsilon, seed, restart):
            ball = threat_model.with_epsilon(epsilon)
            x, classifier, ball = ball.bind(model(), x)
            with models.input_error_context(classifier.model):
                problem = SearchProblem(classifier, x, y, ball, seed, restart=restart)
                found = attack.search_drawn(problem)
            self.num_classes = classifier.num_classes
            self.has_unknown_column = classifier.has_unknown_column
            return found

        known = model()
        variables = known.variables if isinstance(known, keras.Layer) else ()
        # The padding for other batch sizes would count in a shared perturbation.
        is_open = not threat_model.shares_perturbation
        self._function = backend.compile_function(
            search, any_batch_size=is_open, variables=variables
        )

    def __call__(self, *arguments):
        return self._function(*arguments)


registry = Registry("attack", Attack)
