"""The interface of minimum-norm attacks."""

from keras import ops

from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.minimum_norm.to_boundary import QUERIES
from keras_robust.attacks.minimum_norm.to_boundary import to_boundary
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select
from keras_robust.attacks.search_problem import check_takes_problem

NEVER = 3e38


class MinimumNormAttack(Attack):
    """Finds the smallest perturbation that changes the class.

    Subclasses write `nearest`. The threat model defines the distance. `to_boundary` then moves each
    point back to the boundary, which costs 13 forward passes per search. A point that is still
    outside of the ball is projected into it, and success is judged there. `AttackResult.loss` is
    minus the distance of the nearest mistake, inside the ball or not, and `-NEVER` if none was
    found. Under an infinite radius, `threat_model.with_epsilon(np.inf)`, every restart visits every
    example, and the result holds the nearest mistakes themselves. The class attributes `targeted`
    and `confidence` define what counts as a mistake on the way back: a class that leads by
    `confidence`, in units of the logits, or with `None`, for attacks that see decisions only, any
    decision.
    """

    targeted = False
    confidence = 0.0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        check_takes_problem(cls, "nearest")

    def nearest(self, problem):
        """Returns `AttackResult` with the nearest mistakes, wherever they are.

        `problem` is a `SearchProblem`. `success` is true where a mistake was found. `loss` is
        ignored. `queries` counts the queries of this method.
        """
        raise NotImplementedError

    def search(self, problem):
        x, threat_model = problem.x, problem.threat_model
        score = make_attack_loss(problem, "margin", self.targeted)
        _, clean = score(x)
        nearest = self.nearest(problem)
        is_moved = ops.logical_and(nearest.success, ops.logical_not(clean))
        point = select(is_moved, nearest.x_adv, x)
        attack_loss = {"targeted": self.targeted, "confidence": self.confidence}
        point = to_boundary(problem, point, **attack_loss)
        distance = threat_model.distance(point, x)
        found = ops.logical_or(nearest.success, clean)
        x_adv = ops.stop_gradient(threat_model.project(point, x))
        _, success = score(x_adv)
        return AttackResult(
            x_adv=x_adv,
            loss=ops.where(found, -distance, -NEVER),
            success=success,
            zero_gradient=nearest.zero_gradient,
            # Making the loss takes one query, scoring `x` and `x_adv` one each.
            queries=nearest.queries + 3 + QUERIES * ops.cast(is_moved, "int32"),
        )
