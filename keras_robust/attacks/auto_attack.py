"""AutoAttack: the ensemble of attacks that robustness benchmarks use."""

import keras
import numpy as np
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.data import as_structure
from keras_robust.attacks.data import check_examples
from keras_robust.attacks.data import check_rows
from keras_robust.attacks.ensemble import Ensemble
from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.attacks.gradient.apgd import APGD
from keras_robust.attacks.gradient.targeted_apgd import TargetedAPGD
from keras_robust.attacks.minimum_norm.fab import FAB
from keras_robust.attacks.minimum_norm.targeted_fab import TargetedFAB
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.score_based.square import Square
from keras_robust.attacks.worst_case import WorstCase

VERSIONS = ("standard", "plus", "rand")
_NUM_TARGETS = 9
_NORMS = (threat_models.L1, threat_models.L2, threat_models.Linf)


@keras.saving.register_keras_serializable(package="keras_robust")
class AutoAttack(Attack):
    """AutoAttack: parameter-free attacks, each run on the examples that are still robust.

    | version | members, in this order |
    |---|---|
    | `"standard"` | APGD-CE, APGD-T on 9 targets, FAB-T on 9 targets, Square |
    | `"standard"`, `L1` | APGD-CE, 5 restarts, and APGD-T, 5 targets, `shrinking`; FAB-T, Square |
    | `"plus"` | APGD-CE and APGD-DLR and FAB with 5 restarts each, Square, APGD-T, FAB-T |
    | `"rand"` | APGD-CE and APGD-DLR, gradients averaged over 20 passes, for random models |

    Every search takes 100 steps, and Square takes 5,000 queries. Examples that the model
    misclassifies from the start are not attacked. Every member starts from the clean examples that
    are still classified correctly. An example is robust if no member breaks it.

    With fewer than 10 classes, every wrong class is a target once. With 3 classes, APGD-T maximizes
    the margin to its target, because the targeted DLR needs 4 classes. With 2 classes APGD-DLR
    maximizes the margin, too; a model with a single logit `z` is treated as one with the logits
    `[0, z]`.

    Deviations from the authors' code, beside those of the members: few classes are handled (their
    code stops); random numbers are drawn per example, so that results do not depend on the batches;
    in `L1`, APGD is `shrinking` in `"plus"` and `"rand"` as well; the checks of the model and the
    state file are part of `keras_robust.evaluate` instead. As in their code, one more forward pass
    judges what a member found, for random models too.

    Cost of an example that stays robust, `"standard"`: about 2,000 attack passes and 6,000 forward
    passes.

    Args:
        version: `"standard"`, `"plus"` or `"rand"`. Defaults to `"standard"`.

    Raises:
        ValueError: for a threat model that is not `L1`, `L2` or `Linf`, and inside a traced
            function, because the members run one after the other on a data set.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> for member in kr.attacks.AutoAttack().members(kr.Linf(0.1), num_classes=3):
    ...     print(type(member).__name__, member.num_restarts)
    APGD 1
    TargetedAPGD 2
    TargetedFAB 2
    Square 1

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690)
        - [Croce and Hein, 2021](https://arxiv.org/abs/2103.01208), for `L1`.
    """

    def __init__(self, version="standard"):
        check_choice("version", version, VERSIONS)
        self.version = version
        self._members = {}

    def members(self, threat_model, num_classes):
        """Returns the attacks, in order, for a threat model and a number of classes."""
        if not isinstance(threat_model, _NORMS):
            raise ValueError(
                "AutoAttack is defined for L1, L2 and Linf, on one input. For other threat models "
                'use attacks=["apgd", "targeted_apgd"], or "pgd" where those do not run either. '
                f"Received: {threat_model!r}"
            )
        # Reusing the same objects reuses the functions that they have compiled.
        key = (type(threat_model), num_classes)
        if key not in self._members:
            self._members[key] = self._make_members(num_classes, type(threat_model))
        return self._members[key]

    def _make_members(self, num_classes, norm):
        others = min(num_classes - 1, _NUM_TARGETS)
        is_l1 = norm is threat_models.L1
        # The DLR needs 3 classes, and its targeted form needs 4.
        dlr = "dlr" if num_classes > 2 else "margin"
        targeted = {"loss": "dlr" if num_classes > 3 else "margin", "shrinking": is_l1}
        if self.version == "rand":
            random = {"eot_samples": 20, "shrinking": is_l1}
            return [APGD(**random), APGD(loss=dlr, **random)]
        if self.version == "plus":
            return [
                APGD(num_restarts=5, shrinking=is_l1),
                APGD(num_restarts=5, loss=dlr, shrinking=is_l1),
                FAB(num_restarts=5),
                Square(),
                TargetedAPGD(num_targets=others, **targeted),
                TargetedFAB(num_targets=others),
            ]
        return [
            APGD(num_restarts=5 if is_l1 else 1, shrinking=is_l1),
            TargetedAPGD(num_targets=min(others, 5) if is_l1 else others, **targeted),
            TargetedFAB(num_targets=others),
            Square(),
        ]

    def search(self, problem):
        raise ValueError(
            "AutoAttack passes the surviving examples from one attack to the next, on a data set, "
            "and cannot run inside a train step. Train with attack='pgd', and evaluate with "
            f"AutoAttack. Received: {self}"
        )

    @models.with_own_noise
    def run(self, model, x, y, threat_model, *, rows=None, batch_size=256, seed=0, verbose=False):
        threat_model = threat_models.get(threat_model)
        checked, y = check_examples(x, y, threat_model)
        logits = models.predict_clean(model, checked, batch_size)
        labels = logits.argmax(-1) if y is None else losses.to_indices(y, logits.shape[-1])
        labels = ops.convert_to_numpy(labels)
        members = self.members(threat_model, logits.shape[-1])
        worst = WorstCase(checked, labels, logits, measures=False)
        rows = check_rows(rows, len(labels))
        zero_gradient, queries = worst.correct.copy(), np.ones(len(labels), "int32")
        arguments = {"rows": rows, "batch_size": batch_size, "seed": seed}
        ensemble = Ensemble(model, worst, threat_model, **arguments)
        plan = [PlannedAttack(attack, "AutoAttack") for attack in members]
        for member in ensemble.runs(plan):
            for _ in member.batches(verbose):
                pass
            if member.dataset_attack is None:
                continue
            found, _, _ = member.judge()
            # One more query: `judge` has run the model at the new points.
            queries[member.rows] += found.queries + 1
            # Members without gradients cannot detect masked gradients.
            if member.planned.attack.uses_gradients:
                zero_gradient[member.rows] &= found.zero_gradient
        # An example that stays robust is returned unchanged.
        worst.x_adv[worst.robust] = checked[worst.robust]
        found = AttackResult(
            x_adv=worst.x_adv,
            loss=ops.convert_to_numpy(losses.margin(labels, worst.adv_logits)),
            success=~worst.robust,
            zero_gradient=zero_gradient,
            queries=queries,
        )
        found = AttackResult(*(field[rows] for field in found))
        return found._replace(x_adv=threat_model.pack(found.x_adv, as_structure(x)))
