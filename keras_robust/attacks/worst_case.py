"""The strongest adversarial example of each input over all attacks."""

import keras
import numpy as np

from keras_robust import losses
from keras_robust import models
from keras_robust.threat_models.decimal_radius import decimal_radius


class WorstCase:
    """The strongest point that any attack found for each example, checked by the model again.

    Args:
        x: array or structure of arrays, the clean inputs.
        y: int array `(n,)`, the true classes.
        logits: array `(n, num_classes)`, the logits of the clean inputs.
        measures: bool, whether to keep the distances of the nearest mistakes.
        numbers: int array `(n,)`, the rows of the examples in larger data, of which they are a
            part; see `DatasetAttack.become_part`. Defaults to `None`.

    Attributes: `correct` and `robust`, bool `(n,)`; `proved`, bool `(n,)`, where a certificate
    proves that no feasible point is a mistake; `x_adv` and `adv_logits`, the points with the
    largest margin of a wrong class, and their logits; `distances`, `(n,)`, the distances of the
    nearest mistakes, 0 for clean mistakes and infinite if none was found, or `None`.
    """

    def __init__(self, x, y, logits, *, measures, numbers=None):
        self.x, self.y, self.logits, self.numbers = x, y, logits, numbers
        self.correct = ~is_mistaken(logits, y)
        self.robust = self.correct.copy()
        self.proved = np.zeros(len(y), "bool")
        self.x_adv, self.adv_logits = keras.tree.map_structure(np.copy, x), logits.copy()
        self.distances = np.where(self.correct, np.inf, 0.0) if measures else None

    def prove(self, rows):
        """Notes that a certificate proves some of the examples robust, an int array."""
        self.proved[rows] = True

    def update(self, rows, x_adv, logits, threat_model):
        """Adds the points that an attack found for some of the examples.

        Args:
            rows: int array, the indices of the examples.
            x_adv: array or structure of arrays, one point for each of these examples.
            logits: array, the logits at `x_adv`.
            threat_model: a `ThreatModel` with the radius of these rows.

        Returns:
            Two bool arrays: which of the examples are broken, and which points are feasible.
        """
        x, y = models.take(self.x, rows), self.y[rows]
        feasible = np.array(threat_model.contains(x_adv, x))
        kept = self.adv_logits[rows]
        was_wrong, wrong = (is_mistaken(outputs, y) for outputs in (kept, logits))
        old, new = (np.asarray(losses.margin(y, outputs)) for outputs in (kept, logits))
        # Both margins are 0 if classes tie, although argmax may be right at one point only.
        # Points with NaN or infinite logits never become the strongest ones.
        finite = np.isfinite(logits).all(axis=-1)
        stronger = feasible & finite & ((new > old) | (wrong & ~was_wrong))
        self.adv_logits[rows[stronger]] = logits[stronger]
        leaves = zip(keras.tree.flatten(self.x_adv), keras.tree.flatten(x_adv), strict=True)
        for target, found in leaves:
            target[rows[stronger]] = found[stronger]
        self.robust[rows] &= ~(wrong & feasible)
        if self.distances is not None:
            self._measure(rows, x_adv, x, wrong, feasible, threat_model)
        return wrong & feasible, feasible

    def _measure(self, rows, x_adv, x, wrong, feasible, threat_model):
        """Updates the distances of the nearest mistakes."""
        pair = (models.single(x_adv), models.single(x))
        distance = np.array(threat_model.distance(*pair), "float64")
        # Rounding in float32 must not move a feasible point out of the ball.
        radius = decimal_radius(threat_model)
        distance = np.where(feasible, np.minimum(distance, radius), distance)
        # A mistake outside of the ball counts at its distance. Outside of the box it is not valid.
        in_box = np.array(threat_model.with_epsilon(np.inf).contains(*pair))
        distance = np.where(wrong & in_box, distance, np.inf)
        self.distances[rows] = np.minimum(self.distances[rows], distance)

    def state(self):
        """Returns the state as a dict of arrays, for `restore`."""
        state = {"robust": self.robust, "proved": self.proved, "adv_logits": self.adv_logits}
        for number, leaf in enumerate(keras.tree.flatten(self.x_adv)):
            # Attacks do not change arrays of objects, such as strings.
            if leaf.dtype.kind != "O":
                state[f"x_adv_{number}"] = leaf
        return state if self.distances is None else {**state, "distances": self.distances}

    def restore(self, state):
        """Restores a state, whose arrays must have the shapes and dtypes of the current ones."""
        own = {name: (array.shape, array.dtype) for name, array in self.state().items()}
        found = {name: (array.shape, array.dtype) for name, array in state.items()}
        if found != own:
            raise ValueError(f"Expected the arrays {own}. Received: {found}")
        mistaken = np.flatnonzero((state["robust"] | state["proved"]) & ~self.correct)
        if len(mistaken):
            raise ValueError(
                f"Expected no clean mistake that is robust. Received: examples {mistaken}"
            )
        self.robust, self.proved = state["robust"], state["proved"]
        self.adv_logits = state["adv_logits"]
        self.distances = state.get("distances")
        kept = enumerate(keras.tree.flatten(self.x_adv))
        leaves = [state.get(f"x_adv_{number}", leaf) for number, leaf in kept]
        self.x_adv = keras.tree.pack_sequence_as(self.x_adv, leaves)


def is_mistaken(logits, y):
    """Returns where the predicted class is wrong; non-finite logits never count as mistakes."""
    # argmax of NaN returns the first NaN, as if it were a class.
    return np.isfinite(logits).all(axis=-1) & (np.argmax(logits, axis=-1) != y)
