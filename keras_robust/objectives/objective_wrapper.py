"""Base classes of objectives that wrap another objective."""

from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight
from keras_robust.objectives.objective import get


class ObjectiveWrapper(Objective):
    """An objective that delegates to a wrapped objective whatever a subclass does not override.

    Args:
        objective: an `Objective` or its name. It must not override `step`, as `Free` and `AWP` do:
            make those the outer objective.
    """

    def __init__(self, objective):
        self.objective = get(objective)
        # A wrapper does not delegate `step`, so a step of the wrapped objective would be lost.
        if type(self.objective).step is not Objective.step:
            raise ValueError(
                f"{type(self.objective).__name__} has its own optimizer step, which "
                f"{type(self).__name__} would not call. Wrap the other way round, or use one of "
                f"the two. Received: objective={self.objective!r}"
            )

    @property
    def default_attack(self):
        return self.objective.default_attack

    @property
    def runs_attack(self):
        return self.objective.runs_attack

    @property
    def takes_unlabelled(self):
        return self.objective.takes_unlabelled

    def check(self, model, threat_model):
        self.objective.check(model, threat_model)

    def new_objective_state(self, x, y, sample_weight):
        return self.objective.new_objective_state(x, y, sample_weight)

    def perturb(self, attack, classifier, batch):
        return self.objective.perturb(attack, classifier, batch)

    def attacked_mask(self, batch):
        return self.objective.attacked_mask(batch)

    def loss(self, clean, adversarial):
        return self.objective.loss(clean, adversarial)


class Regularised(ObjectiveWrapper):
    """Adds `weight * mean_i penalty_i` to the loss of another objective.

    Subclasses implement `penalty`. Sample weights apply to the penalty as they do to the loss.

    Args:
        weight: float, or a `LearningRateSchedule` over optimizer steps.
        objective: an `Objective` or its name.
    """

    def __init__(self, weight, objective):
        super().__init__(objective)
        self.weight = check_weight("weight", weight)

    def penalty(self, clean, adversarial):
        """Returns the penalty of each example, shape `(batch_size,)`."""
        raise NotImplementedError

    def loss(self, clean, adversarial):
        loss = self.objective.loss(clean, adversarial)
        return loss + at(self.weight, clean) * clean.mean(self.penalty(clean, adversarial))
