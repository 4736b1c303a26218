"""How a bad input is searched: the interface of all attacks, and how they run over a data set."""

import weakref

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.dataset_attack import DatasetAttack
from keras_robust.attacks.result import strongest
from keras_robust.calls import with_argument_advice
from keras_robust.configurable import Configurable
from keras_robust.registry import Registry


class Attack(Configurable):
    """Searches the feasible set of a threat model for the input that a model gets wrong.

    An attack runs in three ways: `attack(model, x, y, threat_model)` on arrays or, inside a traced
    function, on tensors; `attack.run(...)`, which also says which examples were broken; and
    `attack.perturb(...)` inside the train step of `AdvTrain`. Subclasses write `search`.

    An attack for training only, whose points may lie outside of the threat model, says so with
    `stays_in_ball = False`; no model is judged by it. One that needs no gradient of the model, so
    that masked gradients do not hinder it, says so with `uses_gradients = False`. One that follows
    the gradient at points well apart, so that it may see a model in half precision, says so with
    `tolerates_rounding = True`.
    """

    num_restarts = 1
    stays_in_ball = True
    uses_gradients = True
    tolerates_rounding = False

    def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
        """Runs one search from one start and returns `AttackResult`.

        Args:
            classifier: a `models.Classifier`.
            x: float tensor `(batch_size, ...)` inside the bounds of the threat model.
            y: labels, or `None`.
            threat_model: a `ThreatModel` whose radius is known.
            seed: int32 tensor `(2,)` or `(batch_size, 2)`.
            keep_best: bool, whether to return the best point seen, with its true loss and success;
                otherwise the last point, with a loss and success of no meaning. An example that is
                misclassified from the start is then left as it is.
            restart: int or int32 tensor `()`, the number of this search. Targeted attacks choose
                their target by it; another start needs no more than the seed.
        """
        raise NotImplementedError

    def perturb(self, classifier, x, y, threat_model, seed):
        """Returns `AttackResult` for one batch, inside a traced train step."""
        arguments = (classifier, x, y, threat_model, seed)
        return classifier.under_attack(lambda: self._perturb(*arguments), x)

    def _perturb(self, classifier, x, y, threat_model, seed):
        if self.num_restarts == 1:
            return self.search(classifier, x, y, threat_model, seed, keep_best=False)
        best = None
        for restart in range(self.num_restarts):
            one = backend.fold_in(seed, restart)
            found = self.search(classifier, x, y, threat_model, one, True, restart)
            best = found if best is None else strongest(best, found)
        return best

    @with_argument_advice
    def __call__(
        self, model, x, y=None, threat_model="linf", *, batch_size=256, seed=0, verbose=False
    ):
        """Returns adversarial examples for `x`: an array for an array, a tensor for a tensor.

        Args:
            model: a `keras.Model` or a callable that returns logits. Weights, statistics, modes,
                the state of stateful layers and of random numbers are left alone.
            x: `(n, ...)`, float, inside the bounds of the threat model; for a model with several
                inputs a dict or list of such, and the same comes back.
            y: labels `(n,)` or rows `(n, num_classes)`; `None` for the predictions of the model.
            threat_model: a `ThreatModel` or its name; a dict or list of them for several inputs.
            batch_size: int, examples a batch. The result does not depend on it, up to rounding.
            seed: int; inside a traced function also a tensor, such as `optimizer.iterations`, of
                shape `()` or `(2,)`.
            verbose: bool, whether to show a progress bar.

        Raises:
            ValueError: for empty, non-finite or out-of-bounds inputs, for another number of
                labels than of examples, for labels that are no class of the model, and for one
                column of outputs within [0, 1] of which nothing says if it is a logit.
        """
        if isinstance(x, threat_models.ThreatModel):
            raise ValueError(
                f"An attack is called with `(model, x, y, threat_model)`. Received: x={x!r}"
            )
        if isinstance(y, threat_models.ThreatModel):
            raise ValueError(
                "The third argument of an attack is the labels `y`; write `threat_model=` for what "
                f"comes without labels. Received: y={y!r}"
            )
        threat_model = threat_models.get(threat_model)
        leaves = keras.tree.flatten(x)
        if any(backend.is_symbolic(leaf) for leaf in leaves):
            seed = ops.cast(seed, "int32")
            seed = seed if len(seed.shape) else ops.stack([seed, 0])
            exposed, classifier, ball = threat_model.bind(model, x)
            return ball.pack(self.perturb(classifier, exposed, y, ball, seed).x_adv, x)
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
            rows: int array, the examples to attack, of which alone `AttackResult` then tells;
            `None` for
                all.
            batch_size: as when called.
            seed: as when called.
            verbose: as when called.
        """
        run = DatasetAttack(
            self, model, x, y, threat_model, rows=rows, batch_size=batch_size, seed=seed
        )
        for _ in run.shown(verbose):
            pass
        return run.found()

    def clone(self, **changes):
        """Returns a copy of this attack with some constructor arguments changed."""
        return type(self)(**{**self._arguments(), **changes})

    def get_config(self):
        return self._arguments()

    def __getstate__(self):
        # Compiled functions cannot be copied; they are made again when needed.
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def compiled(self, model, threat_model, x, y):
        """Returns the `Compiled` search for `model` and data like these.

        It is kept as long as the model lives.
        """
        kept = self.__dict__.setdefault("_kept", weakref.WeakKeyDictionary())
        loss = getattr(model, "loss", None)
        rules = {**threat_model.get_config(), "epsilon": None}
        # One function per shape of an example: TensorFlow would merge two into an unknown one.
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
    """`Attack.search` compiled for a model, of which it keeps a weak reference.

    Attributes: `num_classes`, int, of a model that the search has asked for logits, else `None`;
    `has_unknown_column`, whether nothing says how its one column of outputs is to be read.
    """

    def __init__(self, attack, model, threat_model):
        self.num_classes, self.has_unknown_column = None, False

        def search(x, y, epsilon, seed, restart):
            ball = threat_model.with_epsilon(epsilon)
            x, classifier, ball = ball.bind(model(), x)
            with models.input_error_context(classifier.model):
                found = attack.search(classifier, x, y, ball, seed, True, restart)
            self.num_classes = classifier.num_classes
            self.has_unknown_column = classifier.has_unknown_column
            return found

        known = model()
        variables = known.variables if isinstance(known, keras.Layer) else ()
        self._function = backend.compile_function(search, any_batch_size=True, variables=variables)

    def __call__(self, *arguments):
        return self._function(*arguments)


registry = Registry("attack", Attack)
