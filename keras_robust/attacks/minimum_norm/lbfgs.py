"""The L-BFGS attack: a minimum-norm attack in `L2`."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.minimum_norm.binary_search import WeightTrial
from keras_robust.attacks.minimum_norm.binary_search import smallest
from keras_robust.attacks.minimum_norm.binary_search import squared_length
from keras_robust.attacks.minimum_norm.box_lbfgs import minimise
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.threat_models.threat_model import per_example

# An example that this weight does not break counts as unbreakable.
_LARGEST_WEIGHT = 1e6
_LARGE = 1e9


@keras.saving.register_keras_serializable(package="keras_robust")
class LBFGS(MinimumNormAttack):
    """Finds the smallest Euclidean perturbation that changes the class, by L-BFGS in the box.

    `min_r c CE(f(x + r), t) + ||r||_2^2` with `x + r` inside the bounds, for a target class `t`.
    `c` grows tenfold until the class changes; a bisection then approaches the smallest such `c`.
    Szegedy et al. (2014) discovered adversarial examples with this attack, and trained on them. It
    measures the distance to the nearest mistake. At a fixed epsilon it is a weak attack: TRADES
    keeps 81.6% against it on CIFAR-10, and 56.6% against PGD. Use it for training as in the paper,
    with `AdversarialPool` or `Mixed`, and evaluate with other attacks.

    The target is the most likely wrong class, and any wrong class counts as success. A perturbation
    that is too large for the threat model is projected onto the ball, and success is judged there.
    Examples that no `c` changes, and examples that are misclassified from the start, are returned
    unchanged.

    Deviations from the paper: `||r||^2` replaces `|r|`, as in cleverhans, and there is no line
    search for the exact `c`. Deviations from cleverhans: every example is a problem of its own;
    there is no untargeted mode, because its objective has no lower bound. Deviations from both: a
    projected L-BFGS replaces the Fortran L-BFGS-B; it runs all examples in parallel in the graph,
    in float32, also under XLA.

    Cost: up to `num_steps` attack passes (usually 10 to 30) for each of about `search_steps + 4`
    values of `c`; 13 forward passes to move the result back to the boundary. BatchNorm statistics
    are not updated.

    Args:
        initial_weight: float > 0, the first `c`. Defaults to `0.01`.
        search_steps: int >= 1, the number of bisections of `c`. With `5` the perturbation is some
            3% longer than with many bisections, and rarely more than 10% longer. Defaults to `5`.
        num_steps: int >= 1, the maximal number of gradients for one value of `c`. Defaults to
            `100`.
        targeted: `False` moves away from `y`, to the most likely wrong class; `True` moves towards
            `y`; `"least_likely"` moves to the class that the model finds least likely at `x`.
            Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, and for a model that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.LBFGS(search_steps=12)
    >>> x_adv = attack(lambda x: x @ weights + bias, x, y, kr.threat_models.L2(0.5, None))
    >>> print(np.round(x_adv, 2))
    [[0.4 0.3]]

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
    """

    def __init__(self, *, initial_weight=1e-2, search_steps=5, num_steps=100, targeted=False):
        check_numbers(initial_weight=initial_weight)
        check_counts(search_steps=search_steps, num_steps=num_steps)
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.initial_weight = initial_weight
        self.search_steps = search_steps
        self.num_steps = num_steps
        self.targeted = targeted

    def nearest(self, problem):
        classifier, x, y = problem.classifier, problem.x, problem.y
        score = make_attack_loss(problem, "cross_entropy", self.targeted)
        targets = self._targets(classifier, x, y)

        def cross_entropy(point):
            return losses.cross_entropy(targets, classifier.logits(point, y)), ()

        _, success = score(x)
        # This gradient only serves to report zero gradients.
        _, gradient = backend.value_and_input_gradient(cross_entropy, x)
        last = smallest(
            self._attempt(score, cross_entropy, x, problem.threat_model.bounds),
            x,
            self.initial_weight,
            done=success,
            ends=self._ends,
        )
        return AttackResult(
            x_adv=last.x_adv,
            loss=-last.size,
            success=ops.isfinite(last.size),
            zero_gradient=zero_gradient(gradient),
            queries=last.queries + 5,
        )

    def _targets(self, classifier, x, y):
        """Returns the target class of each example, int32."""
        logits = classifier.logits(x, y)
        labels = label_indices(y, logits)
        if self.targeted is True:
            return labels
        if self.targeted:
            return ops.cast(ops.argmin(logits, axis=-1), "int32")
        # The most likely wrong class.
        own = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return ops.cast(ops.argmax(logits - _LARGE * own, axis=-1), "int32")

    def _attempt(self, score, cross_entropy, x, bounds):
        """Returns a function that minimizes the objective for one weight per example."""
        low, high = (-np.inf, np.inf) if bounds is None else bounds

        def attempt(search):
            def function(point):
                (values, _), gradient = backend.value_and_input_gradient(cross_entropy, point)
                values = search.weight * values + squared_length(point - x)
                return values, per_example(search.weight, x) * gradient + 2.0 * (point - x)

            steps = {"num_steps": self.num_steps, "done": search.done}
            point, calls = minimise(function, x, low, high, **steps)
            _, hits = score(point)
            return WeightTrial(point, squared_length(point - x), hits, 2 * calls + 1)

        return attempt

    def _ends(self, search):
        return (search.halvings >= self.search_steps) | (search.weight > _LARGEST_WEIGHT)
