"""The interface of attacks that look for the nearest mistake, whatever the radius."""

from keras import ops

from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.minimum_norm.to_boundary import QUERIES
from keras_robust.attacks.minimum_norm.to_boundary import to_boundary
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select

NEVER = 3e38


class MinimumNormAttack(Attack):
    """Looks for the smallest perturbation that changes the class.

    Subclasses write `nearest`; where the distance is measured, is said by the threat model.
    `to_boundary` then moves each point back to the boundary, which costs 13 forward passes a
    search. A point still outside of the ball is moved to the nearest one inside, and success is
    judged there. `AttackResult.loss` is minus the distance of the nearest mistake, in the ball or
    not, and `-NEVER` where none was found. Under an infinite radius,
    `threat_model.with_epsilon(np.inf)`, every restart visits every example, and the nearest
    mistakes themselves come back. What counts as a mistake on the way back is told by `targeted`
    and, in units of the logits, `confidence`.
    """

    targeted = False
    confidence = 0.0

    def nearest(self, classifier, x, y, threat_model, seed, restart):
        """Returns `AttackResult` with the nearest mistakes, wherever they are.

        `success` says for which examples one was found; `loss` is not read. `queries` are those of
        this method. The arguments are those of `search`.
        """
        raise NotImplementedError

    def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
        score = make_attack_loss(classifier, x, y, "margin", self.targeted)
        _, clean = score(x)
        nearest = self.nearest(classifier, x, y, threat_model, seed, restart)
        is_moved = ops.logical_and(nearest.success, ops.logical_not(clean))
        point = select(is_moved, nearest.x_adv, x)
        attack_loss = {"targeted": self.targeted, "confidence": self.confidence}
        point = to_boundary(classifier, x, y, point, threat_model, **attack_loss)
        distance = threat_model.distance(point, x)
        found = ops.logical_or(nearest.success, clean)
        x_adv = ops.stop_gradient(threat_model.project(point, x))
        _, success = score(x_adv)
        return AttackResult(
            x_adv=x_adv,
            loss=ops.where(found, -distance, -NEVER),
            success=success,
            zero_gradient=nearest.zero_gradient,
            queries=nearest.queries + 3 + QUERIES * ops.cast(is_moved, "int32"),
        )
