"""The Square attack: a score-based random search with shrinking windows."""

import numbers
import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select
from keras_robust.attacks.result import strongest
from keras_robust.attacks.score_based import square_windows
from keras_robust.attacks.score_based.square_pyramids import PyramidMoves
from keras_robust.attacks.score_based.square_signs import SignMoves
from keras_robust.backend import counter_rng


class _State(typing.NamedTuple):
    """The state of the search; the points are images."""

    window: object
    x_adv: object
    loss: object
    success: object
    queries: object


@keras.saving.register_keras_serializable(package="keras_robust")
class Square(Attack):
    """Searches randomly with square windows, from scores alone.

    The attack minimizes the margin `z_y - max_{j != y} z_j` (Andriushchenko et al., 2020). Every
    query changes a window at a random place, and the change is kept if it raises the loss. The
    window covers the share `p` of the image: `p_init` at first, halved after 10, 50, 200, 500,
    1000, 2000, 4000, 6000 and 8000 windows. Square is the black-box member of AutoAttack. Masked
    gradients do not hinder it, so that examples which it breaks after gradient attacks have failed
    point to masked gradients (clean logit pairing on MNIST keeps 62.4% against PGD and 6.1% against
    Square). With 50 restarts of 20 000 queries, it leaves Madry's MNIST model an accuracy of
    88.25%.

    In `Linf` the search starts with vertical stripes of one random sign per column and channel; a
    window sets its pixels to their largest or smallest values, with one random sign per channel. In
    `L2` and `L1` it starts with a mosaic of two-lobed pyramids; a window gets a pyramid, whose norm
    is taken from a second window. The window is a square for images `(height, width, channels)` or
    `(height, width)`. A vector counts as one row of features, and a window is a range of them.
    Inputs with more axes are reshaped: all axes before the last two are stacked. Broken examples
    keep their point and take no further queries. The search ends when all examples of a batch are
    broken.

    Deviations from the authors' code: every example has its own windows and signs, whereas theirs
    shares them in a batch; windows reach the last row and column, as in the paper; windows are
    wider than high if the image is, and on images of fewer than 5 rows or columns they shrink to
    one pixel, whereas theirs have 3; a tie is no success; only finite scores count; there is one
    window less, because the start is a query too. In `L2` and `L1` the old change of a window
    enters with the factor 0.999, so that a pyramid on its own negative does not vanish. In `L1`
    each pyramid of the mosaic is scaled to use the whole ball, whereas theirs is projected. The
    clean example is returned if no point has a higher loss.

    Cost: `num_queries + 2` forward passes per restart; every query runs the whole batch until its
    last example is broken. In addition, 256 images of 28 x 28 cost some 0.8 ms of processor time
    per query in `Linf`, and four times as much in `L2` and `L1`. For comparison, a forward pass
    costs 6 ms for two small convolutions, and 35 ms for the 5 x 5 convolutions of Madry's MNIST
    model. `L1` with several channels takes longer, because it projects every point. BatchNorm
    statistics are not updated.

    Args:
        num_queries: int >= 1, the number of points to try per restart. Defaults to `5000`.
        p_init: float in (0, 1], the share of the image that the first windows cover. The paper has
            0.05 for ImageNet and 0.3 for CIFAR-10. Defaults to `0.8`.
        num_restarts: int >= 1, the number of searches. Defaults to `1`.
        loss: the loss to maximize, a name in `keras_robust.losses.FUNCTIONS` or a function
            `(y, logits) -> (batch_size,)`. Defaults to `"margin"`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.
        rescale_schedule: bool, whether the schedule of `p`, made for 10 000 queries, is rescaled to
            `num_queries`. AutoAttack does not rescale it. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a model that is not a classifier, and for a
            threat model other than `Linf`, `L2` and `L1`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> print(np.round(kr.attacks.Square(num_queries=50)(lambda x: x, x, y, kr.Linf(0.2)), 2))
    [[0.4 0.6]]

    References:
        - [Andriushchenko et al., 2020](https://arxiv.org/abs/1912.00049)
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690), AutoAttack
        - [Croce and Hein, 2021](https://arxiv.org/abs/2103.01208), on L1
    """

    uses_gradients = False

    def __init__(
        self,
        *,
        num_queries=5000,
        p_init=0.8,
        num_restarts=1,
        loss="margin",
        targeted=False,
        rescale_schedule=False,
    ):
        check_counts(num_queries=num_queries, num_restarts=num_restarts)
        if not isinstance(p_init, numbers.Real) or not 0.0 < p_init <= 1.0:
            raise ValueError(f"Argument `p_init` must be in (0, 1]. Received: {p_init!r}")
        if not callable(loss):
            check_choice("loss", loss, tuple(losses.FUNCTIONS))
        check_choice("targeted", targeted, (True, False, "least_likely"))
        check_choice("rescale_schedule", rescale_schedule, (True, False))
        self.num_queries = num_queries
        self.p_init = p_init
        self.num_restarts = num_restarts
        self.loss = loss
        self.targeted = targeted
        self.rescale_schedule = rescale_schedule

    def search(self, problem):
        score = make_attack_loss(problem, self.loss, self.targeted)
        moves = self._moves(problem.x, problem.threat_model, problem.seed)
        shape = ops.shape(problem.x)

        def judge(images):
            return score(ops.reshape(images, shape))

        clean = self.score_clean(problem, score)
        start = moves.start()
        loss, hit = judge(start)
        # Examples that are misclassified from the start spend no query on the search.
        queries = ops.cast(~clean.success, "int32")
        state = _State(0, start, loss, ops.logical_or(hit, clean.success), queries)
        last = self._search(judge, moves, state)
        found = AttackResult(
            x_adv=ops.reshape(last.x_adv, shape),
            loss=last.loss,
            success=last.success,
            zero_gradient=ops.zeros_like(last.success),
            queries=last.queries,
        )
        return self.leave_mistakes(clean, strongest(clean, found))

    def _moves(self, x, threat_model, seed):
        """Returns the moves (start and proposals) for the norm of the threat model."""
        image = square_windows.image_shape(tuple(x.shape[1:]))
        keys = counter_rng.make_keys(seed, ops.shape(x)[0])
        if isinstance(threat_model, threat_models.Linf):
            return SignMoves(x, threat_model, keys, image, self.p_init)
        if isinstance(threat_model, (threat_models.L1, threat_models.L2)):
            order = 1 if isinstance(threat_model, threat_models.L1) else 2
            return PyramidMoves(x, threat_model, keys, image, self.p_init, order)
        raise ValueError(f"The Square attack supports Linf, L2 and L1. Received: {threat_model!r}")

    def _search(self, judge, moves, state):
        """Returns the state after all windows, or once every example is broken."""
        num_windows = self.num_queries - 1
        stages = square_windows.stages(self.num_queries, self.rescale_schedule).astype("int32")

        def is_going_on(state):
            is_left = state.window < num_windows
            return ops.logical_and(is_left, ops.logical_not(ops.all(state.success)))

        def body(state):
            stage = ops.take(stages, state.window, axis=0)
            # The counter 0 was used for the start.
            x_adv = moves.propose(state.x_adv, state.window + 1, stage)
            loss, hit = judge(x_adv)
            is_open = ops.logical_not(state.success)
            is_better = ops.logical_and(is_open, ops.logical_or(hit, loss > state.loss))
            return (
                _State(
                    window=state.window + 1,
                    x_adv=select(is_better, x_adv, state.x_adv),
                    loss=ops.where(is_better, loss, state.loss),
                    success=ops.logical_or(state.success, hit),
                    queries=state.queries + ops.cast(is_open, "int32"),
                ),
            )

        (last,) = backend.while_loop(is_going_on, body, (state,))
        return last
