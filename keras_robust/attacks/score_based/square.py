"""The Square attack: random search with windows that shrink, which needs scores only."""

import numbers
import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks import counter_rng
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import select
from keras_robust.attacks.result import strongest
from keras_robust.attacks.score_based import square_windows
from keras_robust.attacks.score_based.square_pyramids import PyramidMoves
from keras_robust.attacks.score_based.square_signs import SignMoves


class _State(typing.NamedTuple):
    """The search after some windows; the points are images."""

    window: object
    x_adv: object
    loss: object
    success: object
    queries: object


@keras.saving.register_keras_serializable(package="keras_robust")
class Square(Attack):
    """Random search with square windows: scores are all that it needs.

    Minimises the margin `z_y - max_{j != y} z_j` (Andriushchenko et al., 2020). Every query changes
    a window at a random place; what raises the loss stays. The window covers the share `p` of the
    image, `p_init` at first and halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000
    windows. It is the black-box part of AutoAttack: gradients that are blind or lie do not hinder
    it, so what it breaks after gradient attacks points to masked gradients (clean logit pairing on
    MNIST keeps 62.4% against PGD and 6.1% against this). It leaves 88.25% of Madry's MNIST model,
    with 50 restarts of 20 000 queries.

    `Linf`: it starts with vertical stripes of one random sign per column and channel; a window sets
    its pixels to their largest or smallest values, with one random sign per channel. `L2`, `L1`: it
    starts with a mosaic of two-lobed pyramids; a window gets a pyramid, paid for by what a second
    window loses. The window is a square for images `(height, width, channels)` or `(height,
    width)`. A vector is one row of features, of which a window is a stretch; in what has more axes,
    all before the last two are stacked. Examples broken once stay as they are and are not counted
    further; when all of a batch are broken, it ends.

    Deviations from the authors' code: every example has windows and signs of its own, where
    theirs shares them in a batch; windows reach the last row and column, as in the paper; windows
    are longer than high where an image is, and on images of fewer than 5 rows or columns as small
    as one pixel, where theirs have 3; a tie is no success; only finite scores count; one window
    less, as the start is a query too. In L2 and L1 the old change of a window enters with the
    factor 0.999, so that a pyramid on its own negative does not vanish, and each pyramid of the
    mosaic in L1 is scaled to spend the ball, where theirs is projected. The example itself comes
    back where no point has a higher loss.

    Cost: `num_queries + 2` forward passes per restart; a batch is asked as a whole until its last
    example is broken. Beside them, 256 images of 28 x 28 cost some 0.8 ms of processor time a query
    in Linf, and four times that in L2 and L1, where a forward pass of two small convolutions costs
    6 ms, and of the 5 x 5 convolutions of Madry's MNIST model 35 ms; L1 with several
    channels takes longer, as it projects every point. BatchNorm statistics see none of it.

    Args:
        num_queries: int >= 1, points tried per restart. Defaults to `5000`.
        p_init: float in (0, 1], the share of the image that the first windows cover. The paper has
            0.05 for ImageNet and 0.3 for CIFAR-10. Defaults to `0.8`.
        num_restarts: int >= 1. Defaults to `1`.
        loss: name in `keras_robust.losses.FUNCTIONS` or a function `(y, logits) -> (batch_size,)`,
            to be maximised. Defaults to `"margin"`.
        targeted: `False`, away from `y`; `True`, towards `y`; `"least_likely"`, towards the class
            that the model finds least likely at `x`. Defaults to `False`.
        rescale_schedule: bool, whether `p` is halved at the same shares of the queries as with
            10 000 of them; AutoAttack does not. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a model that is no classifier, and for a threat
            model that is none of `Linf`, `L2` and `L1`.

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

    def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
        score = make_attack_loss(classifier, x, y, self.loss, self.targeted)
        moves = self._moves(x, threat_model, seed)
        shape = ops.shape(x)

        def judge(images):
            return score(ops.reshape(images, shape))

        never = ops.zeros(shape[:1], dtype="bool")
        clean = AttackResult(x, *score(x), never, counted(shape[:1], 2))
        start = moves.start()
        loss, hit = judge(start)
        queries = ops.cast(~clean.success, "int32")
        state = _State(0, start, loss, ops.logical_or(hit, clean.success), queries)
        last = self._search(judge, moves, state)
        found = AttackResult(
            ops.reshape(last.x_adv, shape), last.loss, last.success, never, last.queries
        )
        best = strongest(clean, found)
        # A mistake on the clean example needs no attack.
        return choose(clean.success, clean, best)._replace(queries=best.queries)

    def _moves(self, x, threat_model, seed):
        """Returns what starts the search and proposes points, for the norm of the threat model."""
        image = square_windows.image_shape(tuple(x.shape[1:]))
        keys = counter_rng.make_keys(seed, ops.shape(x)[0])
        if isinstance(threat_model, threat_models.Linf):
            return SignMoves(x, threat_model, keys, image, self.p_init)
        if isinstance(threat_model, (threat_models.L1, threat_models.L2)):
            order = 1 if isinstance(threat_model, threat_models.L1) else 2
            return PyramidMoves(x, threat_model, keys, image, self.p_init, order)
        raise ValueError(f"The Square attack knows Linf, L2 and L1. Received: {threat_model!r}")

    def _search(self, judge, moves, state):
        """Tries the windows until every example is broken or none are left."""
        num_windows = self.num_queries - 1
        stages = square_windows.stages(self.num_queries, self.rescale_schedule).astype("int32")

        def is_going_on(state):
            is_left = state.window < num_windows
            return ops.logical_and(is_left, ops.logical_not(ops.all(state.success)))

        def body(state):
            stage = ops.take(stages, state.window, axis=0)
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
