"""Attack results that several checks share."""

import numpy as np

from keras_robust import attacks

NUM_STEPS = 40


class AttackCache:
    """Runs attacks on the same examples, each attack once.

    Args:
        model: a model or a callable, as in `evaluate`.
        x: array or structure of arrays, the clean inputs.
        y: int array `(n,)`, the true classes.
        threat_model: a `ThreatModel`.
        logits: array `(n, num_classes)`, the logits of the clean inputs.
        batch_size: int.
        seed: int, the seed of every attack.
        num_steps: int, the number of steps of every iterative attack.

    Attribute: `correct`, bool `(n,)`, whether the clean prediction is right.
    """

    def __init__(  # noqa: PLR0913
        self, model, x, y, threat_model, logits, *, batch_size, seed, num_steps=NUM_STEPS
    ):
        self.model, self.x, self.y, self.logits = model, x, y, logits
        self.threat_model, self.num_steps = threat_model, num_steps
        self.batch_size, self.seed = batch_size, seed
        self.correct = np.argmax(logits, axis=-1) == y
        self._done = {}

    def found(self, attack, ball=None):
        """Returns the `AttackResult` of an attack."""
        ball = ball or self.threat_model
        # Equal attacks may be different objects, but their repr shows all arguments.
        key = repr((attack, ball))
        if key not in self._done:
            arguments = {"batch_size": self.batch_size, "seed": self.seed}
            self._done[key] = attack.run(self.model, self.x, self.y, ball, **arguments)
        return self._done[key]

    def accuracy(self, attack, ball=None):
        """Returns the share of examples that stay correctly classified under an attack."""
        return float((self.correct & ~self.found(attack, ball).success).mean())

    def pgd(self, loss, times=1):
        """Returns PGD on a loss, with `times` as many steps as usual."""
        return attacks.PGD(num_steps=times * self.num_steps, loss=loss)

    def white_box(self):
        """Returns which examples stay correctly classified under attacks with gradients."""
        num_wrong = self.logits.shape[-1] - 1
        targeted = attacks.TargetedAPGD(
            num_targets=min(num_wrong, 3),
            num_steps=self.num_steps,
            # The targeted DLR loss needs at least four classes.
            loss="dlr" if num_wrong > 2 else "margin",
        )
        suite = [self.pgd("cross_entropy"), self.pgd("margin")]
        if self.threat_model.shares_perturbation:
            # Several attacks find several perturbations, and the attacker has one.
            return self.correct & ~self.found(min(suite, key=self.accuracy)).success
        suite.append(targeted)
        return self.correct & ~np.any([self.found(attack).success for attack in suite], axis=0)
