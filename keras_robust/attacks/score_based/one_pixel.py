"""The one-pixel attack, by differential evolution."""

import math
import numbers
import typing

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import threat_models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import strongest
from keras_robust.attacks.score_based.pixel_candidates import PixelGenes
from keras_robust.attacks.score_based.pixel_candidates import pixel_cost
from keras_robust.backend import counter_rng

_PARENTS = 3


class _State(typing.NamedTuple):
    """A generation; `genes` is `(population_size, batch_size, genes)`, the next two `(p, n)`."""

    number: object
    genes: object
    values: object
    success: object
    queries: object


@keras.saving.register_keras_serializable(package="keras_robust")
class OnePixel(Attack):
    """Changes one pixel, or a few, to any color, without gradients.

    Differential evolution (Storn and Price, 1997) works on a population of changes
    `(row, column, color)`, `num_pixels` times each. In every generation, member `i` competes with
    `g_r1 + F (g_r2 - g_r3)` of three other members, without crossover, and is replaced if the rival
    has the larger margin `max_{j != y} z_j - z_y`. The search ends at the first success. The attack
    needs the threat model `L0`, and `epsilon` should allow for `num_pixels`. `L0` counts pixels
    with `per_pixel=True`, and otherwise features, so that a pixel costs as many as there are
    channels. If fewer than `num_pixels` pixels are allowed, but at least one, only the first pixels
    of each member are used.

    It finds mistakes where gradients are of no use, but a few pixels in a large image are rarely
    enough: on CIFAR-10, the paper breaks 68% of the images for a plain network with one pixel. For
    a model with gradients, `FMN` or `PGD` in `L0` is much cheaper and usually stronger.

    Inputs of shape `(batch_size, ..., channels)` have pixels with channels, at positions along any
    number of axes. Inputs of shape `(batch_size, features)` have one pixel per feature.

    Deviations from the paper: the fitness is the margin of the logits instead of a probability; the
    search ends at the first success, whereas theirs waits for a probability below 5%; a position
    that leaves the image reenters on the opposite side, and colors are clipped to the bounds;
    initial colors come from a normal distribution around the middle of the box, with half of its
    width, instead of 8-bit values.

    Cost: up to `population_size * (num_steps + 1) + 2` forward passes for each example.

    Args:
        num_pixels: int >= 1, the number of pixels to change. Defaults to `1`; the paper also uses 3
            and 5.
        population_size: int >= 4, the number of members. Defaults to `400`; much smaller
            populations find much less.
        num_steps: int >= 1, the number of generations. Defaults to `100`.
        scale: float > 0, the factor `F`. Defaults to `0.5`.
        targeted: bool, whether `y` holds target classes. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a threat model other than `L0` or with an
            `epsilon` too small for one pixel, and for a model that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [-2.0, 2.0], [3.0, -3.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5, 0.6]], "float32"), np.array([0])
    >>> attack = kr.attacks.OnePixel(population_size=20, num_steps=30)
    >>> found = attack.run(lambda x: x @ weights, x, y, kr.L0(1))
    >>> print(found.success, np.sum(found.x_adv != x))
    [ True] 1

    References:
        - [Su et al., 2019](https://arxiv.org/abs/1710.08864)
        - [Storn and Price, 1997](https://doi.org/10.1023/A:1008202821328)
    """

    uses_gradients = False

    def __init__(
        self, *, num_pixels=1, population_size=400, num_steps=100, scale=0.5, targeted=False
    ):
        check_counts(num_pixels=num_pixels, population_size=population_size, num_steps=num_steps)
        if population_size <= _PARENTS:
            raise ValueError(
                "Argument `population_size` must be an int >= 4, for three parents besides each "
                f"member. Received: {population_size!r}"
            )
        if not isinstance(scale, numbers.Real) or not 0.0 < scale < math.inf:
            raise ValueError(f"Argument `scale` must be a number > 0. Received: {scale!r}")
        if not isinstance(targeted, bool):
            raise ValueError(f"Argument `targeted` must be a bool. Received: {targeted!r}")
        self.num_pixels = num_pixels
        self.population_size = population_size
        self.num_steps = num_steps
        self.scale = scale
        self.targeted = targeted

    def compiled(self, model, threat_model, x, y):
        # The radius is checked here because inside the compiled search it is a symbolic tensor.
        self._check(threat_model, keras.tree.flatten(x)[0])
        return super().compiled(model, threat_model, x, y)

    def search(self, problem):
        x = problem.x
        self._check(problem.threat_model, x)
        score = make_attack_loss(problem, "margin", self.targeted)
        pixels = PixelGenes(x, problem.threat_model, self.num_pixels)
        shape = ops.shape(x)[:1]
        keys = counter_rng.make_keys(problem.seed, shape[0])
        clean = self.score_clean(problem, score)

        def judge(genes):
            # One member at a time, because a whole population may not fit into memory.
            return ops.map(lambda member: score(pixels.image(member)), genes)

        def body(state):
            done = ops.logical_or(ops.any(state.success, axis=0), clean.success)
            rivals = pixels.wrapped(self._rivals(state, keys))
            values, success = judge(rivals)
            # After its first success an example accepts no more rivals.
            wins = ops.logical_and(values > state.values, ops.logical_not(done))
            state = _State(
                number=state.number + 1,
                genes=ops.where(ops.expand_dims(wins, -1), rivals, state.genes),
                values=ops.where(wins, values, state.values),
                success=ops.where(wins, success, state.success),
                queries=state.queries + self.population_size * ops.cast(~done, "int32"),
            )
            return (state,)

        def goes_on(state):
            done = ops.logical_or(ops.any(state.success, axis=0), clean.success)
            return ops.logical_and(state.number < self.num_steps, ops.logical_not(ops.all(done)))

        genes = pixels.random_genes(keys, self.population_size)
        queries = counted(shape, self.population_size)
        start = _State(ops.cast(0, "int32"), genes, *judge(genes), queries)
        (last,) = backend.while_loop(goes_on, body, (start,), maximum_iterations=self.num_steps)
        found = self.leave_mistakes(clean, strongest(clean, _best(last, pixels)))
        return found._replace(x_adv=ops.stop_gradient(found.x_adv))

    def _check(self, threat_model, x):
        if not isinstance(threat_model, threat_models.L0):
            raise ValueError(
                "OnePixel changes few pixels, and needs the threat model L0, such as L0(1, "
                f"per_pixel=True). Received: {threat_model!r}"
            )
        cost = pixel_cost(x, threat_model)
        if backend.is_symbolic(threat_model.radius):
            return
        radius = ops.convert_to_numpy(threat_model.radius)
        if np.any((radius > 0) & (radius < cost)):
            raise ValueError(
                f"L0 counts features, and a pixel with {cost} channels counts as {cost}, so that "
                "this threat model allows no pixel to change. Use per_pixel=True, which counts "
                f"pixels, such as L0(1, per_pixel=True), or an epsilon >= {cost}. Received: "
                f"{threat_model!r}"
            )

    def _rivals(self, state, keys):
        """Returns the rivals of all members, before their genes are wrapped."""
        size = self.population_size
        # Counter 0 was used for the first generation.
        bits = counter_rng.draw(keys, state.number + 1, _PARENTS * size)
        bits = ops.transpose(ops.reshape(bits, (-1, _PARENTS, size)), (1, 2, 0))
        one, two, three = _distinct(bits, size)
        parents = [_members(state.genes, index) for index in (one, two, three)]
        return parents[0] + self.scale * (parents[1] - parents[2])


def _distinct(bits, size):
    """Returns three different indices below `size`, int32 `(size, batch_size)` each."""
    # Each index is drawn from the numbers left over, then shifted past those taken.
    one = counter_rng.below(bits[0], float(size))
    two = counter_rng.below(bits[1], size - 1.0)
    two = two + ops.cast(two >= one, "float32")
    three = counter_rng.below(bits[2], size - 2.0)
    three = three + ops.cast(three >= ops.minimum(one, two), "float32")
    three = three + ops.cast(three >= ops.maximum(one, two), "float32")
    return tuple(ops.cast(index, "int32") for index in (one, two, three))


def _members(genes, index):
    """Returns the genes of the members `index`, chosen per example."""
    index = ops.broadcast_to(ops.expand_dims(index, -1), ops.shape(genes))
    return ops.take_along_axis(genes, index, axis=0)


def _best(state, pixels):
    """Returns `AttackResult` of the fittest member of each example."""
    wins = ops.any(state.success, axis=0)
    # Successful members rank before all others.
    values = ops.where(ops.logical_or(state.success, ~wins), state.values, -float("inf"))
    winner = ops.expand_dims(ops.argmax(values, axis=0), 0)
    index = ops.broadcast_to(ops.expand_dims(winner, -1), (1, *ops.shape(state.genes)[1:]))
    genes = ops.take_along_axis(state.genes, index, axis=0)[0]
    return AttackResult(
        x_adv=pixels.image(genes),
        loss=ops.max(values, axis=0),
        success=wins,
        zero_gradient=ops.zeros_like(wins),
        queries=state.queries,
    )
