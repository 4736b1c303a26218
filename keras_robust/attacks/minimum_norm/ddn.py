"""The decoupled direction and norm attack (DDN): a minimum-norm attack in `L2`."""

import keras
from keras import ops

from keras_robust import threat_models
from keras_robust.attacks.attack_loss import averaged_gradient
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import check_shares
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.minimum_norm.nearest_visited import cosine
from keras_robust.attacks.minimum_norm.nearest_visited import farthest_distance
from keras_robust.attacks.minimum_norm.nearest_visited import nearest_visited
from keras_robust.attacks.minimum_norm.nearest_visited import width_of_box
from keras_robust.threat_models.threat_model import per_example

_FIRST_STEP, _LAST_STEP = 1.0, 1 / 100


@keras.saving.register_keras_serializable(package="keras_robust")
class DDN(MinimumNormAttack):
    """Finds the nearest mistake in `L2`, with a length that follows the decisions alone.

    From `delta_0 = 0` and `epsilon_0 = initial_norm`, every step ascends the soft margin,
    `delta <- delta_k + alpha g / ||g||_2`. Then `epsilon_{k+1} = (1 - gamma) epsilon_k` if
    `x + delta_k` is a mistake, and `(1 + gamma) epsilon_k` if not, and `delta_{k+1}` is `delta`
    brought to the length `epsilon_{k+1}`. `alpha` falls along a cosine from the width of the box to
    a hundredth of it. The result is the nearest mistake visited. The gradient defines the
    direction, and the decision the length, so that there is no weight to search.

    It costs as much as `FMN` in `L2`, which starts near the boundary instead of at a given length.
    The length changes by `gamma` per step, so that a boundary much nearer or farther than
    `initial_norm` needs more steps. A zero gradient moves nothing: where `zero_gradient` is true,
    the distance means nothing.

    Deviations from the authors' code: the soft margin, which has the direction of the
    cross-entropy, and no zero gradient where the model is confident; inside the box `delta` keeps
    the length `epsilon`, whereas theirs is scaled and then clipped, which shortens it; the points
    are not rounded to 256 levels; a zero gradient moves nothing, where theirs moves at random; the
    last point is evaluated as well; the nearest mistake is moved back to the boundary.

    Cost: `num_steps` attack passes and 1 forward pass, and 13 more to move the result back to the
    boundary. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the number of steps. Defaults to `100`; the paper uses up to 1000.
        gamma: float in (0, 1), the share by which the length changes. Defaults to `0.05`.
        initial_norm: float > 0, the first length, as a share of the width of the box, or of 1
            without a box. Defaults to `1.0`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a threat model other than `L2`, and for a model
            that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> found = kr.attacks.DDN(num_steps=60).run(
    ...     lambda x: x @ weights + bias, x, y, kr.L2(0.5, bounds=None))
    >>> print(np.round(found.x_adv, 2), np.round(-found.loss, 2))
    [[0.4 0.3]] [0.22]

    References:
        - [Rony et al., 2019](https://arxiv.org/abs/1811.09600)
    """

    def __init__(self, *, num_steps=100, gamma=0.05, initial_norm=1.0, targeted=False):
        check_counts(num_steps=num_steps)
        check_shares(gamma=gamma)
        check_numbers(initial_norm=initial_norm)
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.num_steps = num_steps
        self.gamma = gamma
        self.initial_norm = initial_norm
        self.targeted = targeted

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        if not isinstance(threat_model, threat_models.L2):
            raise ValueError(
                "DDN shortens Euclidean lengths, and needs the threat model L2, such as L2(0.5). "
                f"Received: {threat_model!r}"
            )
        # The cross-entropy is its softplus, whose gradient vanishes where the model is confident.
        score = make_attack_loss(problem, "soft_margin", self.targeted)
        width = width_of_box(threat_model)
        steps = cosine(_FIRST_STEP * width, _LAST_STEP, self.num_steps)
        farthest = farthest_distance(x, threat_model)

        def judge(x_adv):
            return averaged_gradient(score, x_adv, 1)

        def move(step, visit, length):
            length = length * ops.where(visit.success, 1.0 - self.gamma, 1.0 + self.gamma)
            length = ops.minimum(length, farthest)
            ascent = threat_model.steepest_direction(visit.gradient)
            delta = visit.x_adv - x + ops.take(steps, step) * ascent
            # The farthest point of the sphere in this direction has its length inside the box.
            ball = threat_model.with_epsilon(per_example(length, x))
            return ball.linear_maximization_oracle(delta, x), length

        length = ops.full(ops.shape(x)[:1], self.initial_norm * width, dtype="float32")
        return nearest_visited(problem, self.num_steps, judge, move, length)
