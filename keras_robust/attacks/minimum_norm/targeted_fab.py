"""Targeted FAB, which tries one target class after the other."""

import keras

from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.minimum_norm.fab import FAB
from keras_robust.attacks.minimum_norm.fab import lead_and_gradient
from keras_robust.attacks.ranked_targets import ranked_target


@keras.saving.register_keras_serializable(package="keras_robust")
class TargetedFAB(FAB):
    """Runs `FAB` towards each of the most likely wrong classes in turn: FAB-T of AutoAttack.

    Every step linearizes the lead of one target class, so that it costs one gradient, whatever the
    number of classes is. The targets are ranked 2, 3, ... by the clean logits. Each target is one
    search that starts at the clean example, uses no random numbers, and visits only the examples
    that no earlier search broke inside the ball. Any wrong class counts as a mistake.

    Deviations from the authors' code: those of `FAB`; if there are more targets than wrong classes,
    the classes are repeated, which finds the same points again.

    Cost: one attack pass and one forward pass per target and step; 13 forward passes per target to
    move the result back to the boundary.

    Args:
        num_targets: int, the number of searches. Defaults to `9`.
        num_steps: int, the number of steps of each search. Defaults to `100`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> found = kr.attacks.TargetedFAB(num_targets=1).run(
    ...     lambda x: x @ weights + bias, x, y, kr.Linf(0.5, bounds=None))
    >>> print(np.round(found.x_adv, 2), np.round(-found.loss, 2))
    [[0.33 0.33]] [0.17]

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/1907.02044)
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690), the targeted form.
    """

    def __init__(self, *, num_targets=9, num_steps=100):
        check_counts(num_targets=num_targets)
        super().__init__(num_steps=num_steps)
        self.num_targets = num_targets
        self.num_restarts = num_targets

    def num_gradients(self, num_classes):
        return 1

    def linearisation(self, problem, labels, clean):
        targets = ranked_target(clean, labels, problem.restart)

        def linearise(x):
            return lead_and_gradient(problem.classifier, x, problem.y, labels, targets)

        return linearise

    def _start(self, problem):
        return problem.x
