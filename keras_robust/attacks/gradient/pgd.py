"""Projected gradient descent."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class PGD(IterativeAttack):
    """Takes projected gradient steps from a random point of the ball.

    `x_0` is uniform in the ball, and `x_{k+1} = project(x_k + step_size * sign(gradient))` in
    `Linf`. `L2` uses the normalized gradient, `L1` its largest coordinates. PGD is the standard
    attack of adversarial training: use 7 to 10 steps for training, and 50 steps with 10 restarts
    for evaluation. In `L2` the steps cover 2.5 times the radius, whatever `num_steps` is, and may
    end slightly short of the best point. Restarts close the gap.

    Deviations from the authors' code: called on data, the attack returns the best point that it
    visited, as is usual in evaluations. In a train step it returns the last point, as theirs does.

    Args:
        num_steps: int, the number of gradient steps. Defaults to `10`.
        step_size: number or string such as `"2/255"`, in the units of the input. `None` stands for
            `2.5 * epsilon / num_steps`. Defaults to `None`.
        random_start: `True` starts at a random point of the ball; `False` starts at `x`;
            `"gaussian"` starts at `x + 0.001 * normal` (TRADES). Defaults to `True`.
        num_restarts: int, the number of independent searches. Each example keeps its best result: a
            misclassified point if there is one, otherwise the point with the highest loss. Defaults
            to `1`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x` (Kurakin), so that the
            perturbation does not leak the true label. Defaults to `False`.
        loss: the loss to maximize: `"cross_entropy"`, `"margin"`, `"soft_margin"`,
            `"probability_margin"`, `"dlr"` (at least 3 classes), `"kl"` (divergence from the clean
            prediction; needs a random start), `"compiled"` (the loss of the compiled model, for
            several outputs or regression), or a function `(y, logits) -> (batch_size,)`. With
            `None` the objective chooses: the cross-entropy by default, or the compiled loss for a
            model that is not a classifier. Defaults to `None`.
        eot_samples: int, the number of passes over which the gradient is averaged (expectation over
            transformation). Use more than one for models with random layers. Defaults to `1`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.PGD(num_steps=5)
    >>> print(np.round(attack(lambda x: x @ weights, x, y, kr.threat_models.Linf(0.1)), 3))
    [[0.4 0.4]]

    References:
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083)
    """

    relative_step = 2.5
