"""Projected gradient descent."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class PGD(IterativeAttack):
    """Projected gradient ascent from a random point of the ball.

    `x_0` uniform in the ball, `x_{k+1} = project(x_k + step_size * sign(gradient))` in `Linf`; the
    normalised gradient in `L2`, the largest coordinates in `L1`. The attack of adversarial
    training: 7 to 10 steps to train, 50 steps and 10 restarts to judge. In `L2` a run covers 2.5
    times the radius whatever `num_steps` is, and may end a little short; restarts close the gap.

    Deviations from the authors' code: called on data, it returns the best point that it met, as
    the field's evaluations do; in a train step the last one, as the authors do.

    Args:
        num_steps: int, gradient steps. Defaults to `10`.
        step_size: number or string such as `"2/255"`, in the units of the input; `None` for
            `2.5 * epsilon / num_steps`. Defaults to `None`.
        random_start: `True`, start at a random point of the ball; `False`, at `x`; `"gaussian"`, at
            `x + 0.001 * normal` (TRADES). Defaults to `True`.
        num_restarts: int, independent searches, of which each example keeps the best: one that is
            misclassified, or else the one with the highest loss. Defaults to `1`.
        targeted: `False`, away from `y`; `True`, towards `y`; `"least_likely"`, towards the class
            that the model finds least likely at `x` (Kurakin), which keeps the true label out of
            the perturbation. Defaults to `False`.
        loss: what is maximised: `"cross_entropy"`, `"margin"`, `"soft_margin"`, `"dlr"` (3 classes
            or more), `"kl"` (divergence from the clean prediction; needs a random start),
            `"compiled"` (the loss of the compiled model, for several outputs or regression), or a
            function `(y, logits) -> (batch_size,)`. `None` leaves the choice to the objective: the
            cross-entropy, or the compiled loss of a model that is no classifier. Defaults to
            `None`.
        eot_samples: int, passes over which the gradient is averaged (expectation over
            transformation), for models with random layers. Defaults to `1`.

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
