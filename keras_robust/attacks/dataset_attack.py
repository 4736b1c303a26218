"""An attack on a data set, batch by batch."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_seed
from keras_robust.attacks.data import as_structure
from keras_robust.attacks.data import check_classes
from keras_robust.attacks.data import check_examples
from keras_robust.attacks.data import check_rows
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import strongest


class DatasetAttack:
    """Iterates an attack over a data set, restart by restart and batch by batch.

    Iterate to the end, then call `found`. Between two steps, `state` returns a checkpoint; a new
    run with the same arguments continues from it to the same result.

    Args:
        attack: an `Attack`.
        model, x, y, threat_model: as `Attack.run` takes them.
        rows: int array, the examples to attack; `found` then returns these only. `None` for all.
        batch_size: int, the maximal number of examples per batch.
        seed: int.

    Yields:
        The number of examples of the batch that was attacked.
    """

    def __init__(self, attack, model, x, y, threat_model, *, rows=None, batch_size=256, seed=0):
        check_seed(seed)
        if not callable(model):
            raise ValueError(
                "Expected a keras.Model, or a function of tensors that returns logits. "
                f"Received: an object of type {type(model).__name__}"
            )
        threat_model = threat_models.get(threat_model)
        checked, y = check_examples(x, y, threat_model)
        models.refuse_guards(model, threat_model)
        models.refuse_preprocessor(model)
        if threat_model.changes_inputs and not attack.uses_gradients:
            models.refuse_integers(model)
        self.rows = check_rows(rows, models.size_of(checked))
        epsilon = threat_model.epsilon_for_rows(self.rows, checked)
        self.threat_model = threat_model.with_epsilon(epsilon)
        # The compiled search holds only a weak reference to the model.
        self.attack, self.model, self.seed = attack, model, seed
        arrays = as_structure(x)
        some = slice(None) if rows is None else self.rows
        # With `rows` the caller has checked the logits of all examples; those of a few may happen
        # to lie within [0, 1].
        self._is_of_all = rows is None
        self.inputs = models.take(arrays, some)
        self.x, self.y = models.take(checked, some), None if y is None else y[some]
        # A perturbation that all examples share needs all of them in one batch.
        is_shared = threat_model.shares_perturbation
        self.batch_size = len(self.rows) if is_shared else min(batch_size, len(self.rows))
        self._is_part, self._numbers = False, self.rows
        # Under an infinite radius a later restart may find a nearer mistake, so all restarts run.
        self._has_infinite_radius = bool(np.all(np.isinf(epsilon)))
        self._step = attack.compiled(model, self.threat_model, self.x, self.y)
        self._best, self._restart, self._start = None, 0, 0
        self._remaining = np.arange(len(self.rows))

    def become_part(self, numbers, batch_size):
        """Gives every example the random numbers that it has in the data of which `x` is a part.

        All batches are filled up to `batch_size`, so that results have the same bits in any part.

        Args:
            numbers: int array, the row of each example of `x` in the larger data.
            batch_size: int.
        """
        self._numbers, self.batch_size, self._is_part = numbers[self.rows], batch_size, True

    def __iter__(self):
        while self._restart < self.attack.num_restarts:
            while self._start < len(self._remaining):
                batch = self._remaining[self._start : self._start + self.batch_size]
                self._store(self._attack(batch), batch)
                self._start += len(batch)
                yield len(batch)
            self._restart, self._start = self._restart + 1, 0
            if not self._has_infinite_radius:
                self._remaining = np.flatnonzero(~self._best.success)

    def with_progress(self, verbose, num_others=0, num_robust=0):
        """Yields from the iteration, with a progress bar and the robust accuracy if `verbose`.

        Args:
            verbose: bool.
            num_others: int, the number of examples that are not attacked.
            num_robust: int, how many of those count as robust.
        """
        if not verbose:
            yield from self
            return
        bar = keras.utils.Progbar(1, unit_name="example", stateful_metrics=["robust"])
        done = 0
        for count in self:
            share = (num_robust + (~self._best.success).sum()) / (num_others + len(self.rows))
            # Under an infinite radius nearly every example is broken, so the accuracy means
            # nothing.
            values = None if self._has_infinite_radius else [("robust", share)]
            done += count
            # What is broken needs no more restarts, which makes the time left shorter.
            bar.target = done + self._num_left()
            bar.update(done, values, finalize=False)
            yield count
        if done:
            bar.update(done, finalize=True)

    def _num_left(self):
        """Returns how many examples are still to attack, each as often as restarts visit it."""
        num_done = 0 if self._has_infinite_radius else int(self._best.success.sum())
        later = (self.attack.num_restarts - self._restart - 1) * (len(self.rows) - num_done)
        return len(self._remaining) - self._start + later

    def state(self):
        """Returns the dict of arrays that a later run needs to continue."""
        place = {"restart": np.array(self._restart), "start": np.array(self._start)}
        state = {**place, "todo": self._remaining, **(self._best._asdict() if self._best else {})}
        return {name: np.copy(array) for name, array in state.items()}

    def restore(self, state):
        """Continues from a state that `state` returned."""
        state = {name: np.copy(array) for name, array in state.items()}
        self._restart, self._start = int(state.pop("restart")), int(state.pop("start"))
        self._remaining = state.pop("todo")
        self._best = AttackResult(**state) if state else None

    def found(self):
        """Returns `AttackResult` with NumPy arrays, and `x_adv` in the structure of the inputs."""
        x_adv = self.threat_model.pack(self._best.x_adv, self.inputs)
        return self._best._replace(x_adv=x_adv)

    def _attack(self, batch):
        """Returns the results of one search on a batch of row positions."""
        count = len(batch)
        if self._is_part:
            batch = batch[models.filled_rows(count, self.batch_size)]
        models.check_batch_size(self.model, len(batch))
        epsilon = self.threat_model.epsilon_for_rows(batch, self.x)
        seed = ops.convert_to_tensor([self.seed, self._restart], "int32")
        seed = ops.convert_to_numpy(backend.fold_in(seed, self._restart))
        # One seed per row of the data set, so that results do not depend on the batches.
        seeds = np.stack([np.full(len(batch), seed[0]), seed[1] ^ self._numbers[batch]], axis=1)
        found = self._step(
            keras.tree.map_structure(ops.convert_to_tensor, models.take(self.x, batch)),
            None if self.y is None else ops.convert_to_tensor(self.y[batch]),
            ops.convert_to_tensor(epsilon),
            ops.convert_to_tensor(seeds.astype("int32")),
            ops.convert_to_tensor(self._restart),
        )
        return AttackResult(*(ops.convert_to_numpy(field)[:count] for field in found))

    def _store(self, found, batch):
        """Stores the results of a batch where they beat those of earlier restarts."""
        if self._best is None:
            if self.y is not None and self._step.num_classes is not None:
                check_classes(self.y, self._step.num_classes)
            if self._step.has_unknown_column and self._is_of_all:
                models.predict_clean_logits(self.model, self.x, self.batch_size)
            fields = (np.zeros((len(self.rows), *field.shape[1:]), field.dtype) for field in found)
            self._best = AttackResult(*fields)
        if self._restart:
            found = strongest(AttackResult(*(field[batch] for field in self._best)), found)
        for target, new in zip(self._best, found, strict=True):
            target[batch] = ops.convert_to_numpy(new)
