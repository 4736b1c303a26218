"""Fast adaptive boundary attack towards one class after the other."""

import keras

from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.minimum_norm.fab import FAB
from keras_robust.attacks.minimum_norm.fab import lead_and_gradient
from keras_robust.attacks.ranked_targets import ranked_target


@keras.saving.register_keras_serializable(package="keras_robust")
class TargetedFAB(FAB):
    """FAB-T of AutoAttack: `FAB` towards each of the most likely wrong classes in turn.

    The lead that is linearised is that of one target, those ranked 2, 3, ... by the clean logits,
    so that a step costs one gradient whatever the number of classes is. Each target is one search,
    from the clean example and without random numbers, for the examples that no earlier one broke
    inside the ball; any wrong class counts as a mistake.

    Deviations from the authors' code: those of `FAB`; targets beyond the number of classes begin
    anew, which finds the same again.

    Cost: per target and step, one attack pass and one forward pass; 13 forward passes a target,
    back to the boundary.

    Args:
        num_targets: int, the number of searches. Defaults to `9`.
        num_steps: int, of each. Defaults to `100`.

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

    def linearisation(self, classifier, y, labels, clean, threat_model, restart):
        targets = ranked_target(clean, labels, restart)

        def linearise(x):
            return lead_and_gradient(classifier, x, y, labels, targets)

        return linearise

    def _start(self, x, threat_model, seed, restart):
        return x
