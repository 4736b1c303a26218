"""Training on a pool of adversarial examples that many batches share."""

import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust.attacks import AttackResult
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight

# Folded into the seed of the batch, because the attack draws from that seed itself.
_DRAW = 307


class _Pool(typing.NamedTuple):
    """Variables with the rows of the pool, and the number of examples added to it so far."""

    x: object
    y: object
    sample_weight: object
    count: object


@keras.saving.register_keras_serializable(package="keras_robust")
class AdversarialPool(Objective):
    """The compiled loss on clean examples and on a pool of adversarial examples.

    `alpha * L(f(x), y) + (1 - alpha) * L(f(x_pool), y_pool)`. This is the training of Szegedy et
    al. (2014): a pool of adversarial examples is always mixed into the training data, and new
    adversarial examples for the current network replace part of it from time to time. Their attack
    is slow, and the pool spreads its cost over many batches. Here, every `refresh` optimizer steps,
    the adversarial examples of the current batch replace the oldest ones in the pool. For every
    batch, as many examples as it has are drawn from the pool, with replacement, and keep their own
    labels and sample weights. The authors reported an MNIST error below 1.2%, compared to 1.6% with
    weight decay alone. This training is no defense against attacks at a fixed epsilon: use
    `Adversarial` for that.

    With another attack, for example `attack="pgd"`, it is adversarial training at a fraction of the
    cost, but most examples were made for earlier weights. `adv_accuracy` is the accuracy on the
    drawn examples, and is too high for the same reason.

    The pool is empty at the start of every `fit`, also of a `fit` that resumes a training, because
    neither `BackupAndRestore` nor `AtomicBackup` restores the pool. The first batch adds the first
    examples.

    Deviations from the paper: one pool at the input, where theirs had one for each layer. New
    examples replace the oldest ones instead of random ones, so that all have the same lifetime.

    Cost: two training passes, and the passes of the attack divided by `refresh`. BatchNorm
    statistics see one clean pass and one over the drawn examples.

    Args:
        alpha: float from 0 to 1 or a `LearningRateSchedule` over optimizer steps, the weight of
            the clean loss. Defaults to `0.5`.
        pool_size: int >= 1, the number of examples in the pool, which is held in memory. Only the
            first examples of a larger batch are added. Defaults to `1024`.
        refresh: int >= 1, optimizer steps from one attack to the next. Defaults to `10`.

    Raises:
        ValueError: for arguments out of range; in `fit`, for models with several inputs, for
            examples without a fixed shape, and under several replicas, which cannot share a pool.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.AdvTrain(objective=kr.objectives.AdversarialPool(refresh=50)).attack)
    LBFGS(initial_weight=0.01, search_steps=5, num_steps=100, targeted=False)

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
    """

    default_attack = "lbfgs"

    def __init__(self, alpha=0.5, pool_size=1024, refresh=10):
        for name, value in (("pool_size", pool_size), ("refresh", refresh)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"Argument `{name}` must be an int >= 1. Received: {name}={value!r}"
                )
        self.alpha = check_weight("alpha", alpha, maximum=1.0)
        self.pool_size = pool_size
        self.refresh = refresh

    def check(self, model, threat_model):
        inputs = getattr(model, "inputs", None) or ()
        if len(inputs) > 1:
            raise ValueError(
                "AdversarialPool stores the attacked input, but not the other inputs of a model. "
                "Use the objective Mixed. "
                f"Received: a model with {len(inputs)} inputs"
            )
        if not threat_model.exposes_inputs:
            raise ValueError(
                "AdversarialPool stores inputs, but this threat model changes the output of a "
                "layer, or parameters of a transformation. Use the objective Mixed. "
                f"Received: {threat_model!r}"
            )

    def new_objective_state(self, x, y, sample_weight):
        def rows_like(tensor):
            if tensor is None:
                return None
            if None in tensor.shape[1:]:
                raise ValueError(
                    "AdversarialPool needs examples and labels of one shape. Pad or crop them, or "
                    f"use the objective Mixed. Received: a tensor of shape {tuple(tensor.shape)}"
                )
            return self._variable((self.pool_size, *tensor.shape[1:]), tensor.dtype)

        x, y, sample_weight = keras.tree.map_structure(rows_like, (x, y, sample_weight))
        return _Pool(x, y, sample_weight, self._variable((), "int32"))

    def loss(self, clean, adversarial):
        alpha = at(self.alpha, clean)
        return alpha * clean.loss + (1.0 - alpha) * adversarial.loss

    def step(self, gradient_step, attack, batch):
        has_zero_gradient = self._refresh(gradient_step.classifier, attack, batch)
        drawn = self._draw(batch)
        found = AttackResult.unattacked(drawn.x)._replace(zero_gradient=has_zero_gradient)
        return gradient_step.apply(gradient_step.backward(self.loss, found, batch=drawn))

    def _variable(self, shape, dtype):
        dtype = keras.backend.standardize_dtype(dtype)
        return keras.Variable("zeros", shape=shape, dtype=dtype, trainable=False)

    def _refresh(self, classifier, attack, batch):
        """Updates the pool if an update is due. Returns which gradients were zero."""
        count = batch.objective_state.count
        kept = _leaves(batch.objective_state[:3])

        def renew():
            search = (classifier, batch.x, batch.y, batch.threat_model, batch.seed)
            found = attack.perturb(*search)
            fresh = _leaves((found.x_adv, batch.y, batch.sample_weight))
            number = self._num_new(ops.shape(batch.x)[0])
            # The pool is a ring buffer: new examples replace the oldest ones.
            rows = ops.expand_dims((count + ops.arange(number, dtype="int32")) % self.pool_size, -1)
            pairs = zip(kept, fresh, strict=True)
            pool = [ops.scatter_update(old, rows, new[:number]) for old, new in pairs]
            return pool, count + number, found.zero_gradient

        def keep():
            pool = [ops.convert_to_tensor(variable) for variable in kept]
            never = ops.zeros(ops.shape(batch.x)[:1], dtype="bool")
            return pool, ops.convert_to_tensor(count), never

        # An empty pool is filled at once, also if a training resumes between two updates.
        is_due = ops.logical_or(batch.iteration % self.refresh == 0, ops.equal(count, 0))
        pool, total, has_zero_gradient = backend.cond(is_due, renew, keep)
        for variable, value in zip([*kept, count], [*pool, total], strict=True):
            variable.assign(value)
        return has_zero_gradient

    def _num_new(self, size):
        """Returns how many examples of a batch are added; `size` is an int or a tensor."""
        if isinstance(size, int):
            return min(size, self.pool_size)
        return ops.minimum(size, self.pool_size)

    def _draw(self, batch):
        """Returns a batch of the same size, drawn from the pool with replacement."""
        filled = ops.minimum(batch.objective_state.count, self.pool_size)
        seed = backend.fold_in(batch.seed, _DRAW)
        share = backend.uniform(ops.shape(batch.x)[:1], seed)
        rows = ops.cast(share * ops.cast(filled, "float32"), "int32")
        # Rounding in float32 can reach `filled`.
        rows = ops.minimum(rows, filled - 1)

        def take(variable):
            return None if variable is None else ops.take(variable, rows, axis=0)

        x, y, sample_weight = keras.tree.map_structure(take, tuple(batch.objective_state[:3]))
        return batch._replace(x=x, y=y, sample_weight=sample_weight)


def _leaves(structure):
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
