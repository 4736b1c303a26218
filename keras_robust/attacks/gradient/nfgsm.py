"""N-FGSM: FGSM from a noisy example, without projection, for training only."""

import math
import numbers

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class NFGSM(IterativeAttack):
    """Takes one step of length epsilon from a noisy example, without projection: N-FGSM.

    `x_0 = clip(x + eta)` with `eta` uniform in the ball of radius `noise * epsilon`, and
    `x_adv = clip(x_0 + epsilon * sign(gradient at x_0))` in `Linf`. `L2` uses the normalized
    gradient, `L1` its largest coordinates. The result is clipped to the box, but not projected onto
    the ball: `x_adv` is up to `(noise + 1) * epsilon` away from `x`. So the attack is for training
    only, and `evaluate` and `RobustValidation` refuse it.

    It costs one attack pass, like `RandomStartFGSM`, but avoids catastrophic overfitting where
    `RandomStartFGSM` does not: the authors report none on CIFAR-10 up to 16/255. With 30 epochs and
    a learning rate of SGD that rises from 0 to 0.2 and falls back, a ResNet-18 reaches 80.6% clean
    accuracy and 48.1% under PGD-50 with 10 restarts at 8/255. The authors report no result under
    AutoAttack.

    Deviations from the authors' code: the gradient is computed in inference mode, whereas they
    compute it in training mode; norms other than `Linf` are ours. Called on data, the attack
    returns the best point that it visited, which may be `x`.

    Args:
        noise: float >= 0, the radius of the noise in multiples of epsilon: `2` for CIFAR-10, `3` to
            `4` for SVHN at 12/255 and for wide networks at 16/255; `0` is `FGSM`. Defaults to
            `2.0`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.
        loss: the loss to maximize, as in `PGD`. Defaults to `None`: the objective chooses, which
            means the cross-entropy by default, or the compiled loss for a model that is not a
            classifier.

    Raises:
        ValueError: if `noise` is negative or not finite.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.tile([[0.01, -0.01]], (100, 1)).astype("float32")
    >>> x, y = np.full((1, 100), 0.5, "float32"), np.array([0])
    >>> x_adv = kr.attacks.NFGSM()(lambda x: x @ weights, x, y, kr.threat_models.Linf(0.1))
    >>> print(f"{np.abs(x_adv - x).max():.1f}")
    0.3

    References:
        - [De Jorge et al., 2022](https://arxiv.org/abs/2202.01181)
    """

    stays_in_ball = False

    def __init__(self, *, noise=2.0, targeted=False, loss=None):
        if not isinstance(noise, numbers.Real) or not 0.0 <= noise < math.inf:
            raise ValueError(
                "Argument `noise` must be a number >= 0, in multiples of epsilon. "
                f"Received: noise={noise!r}"
            )
        super().__init__(
            num_steps=1,
            step_size=None,
            random_start=True,
            num_restarts=1,
            targeted=targeted,
            loss=loss,
            eot_samples=1,
        )
        self.noise = noise

    def start(self, x, threat_model, seed):
        return super().start(x, threat_model.scaled(self.noise), seed)

    def project(self, x_adv, x, threat_model):
        # No step leaves this larger ball, so its projection only clips to the box.
        return threat_model.scaled(self.noise + 1.0).project(x_adv, x)
