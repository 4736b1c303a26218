"""Objectives that learn from a teacher."""

import warnings

import keras
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust.objectives.objective import Objective


class Distillation(Objective):
    """Has a teacher: another classifier, which sees clean examples and never changes.

    The teacher runs in inference mode, no gradient flows through it, and its weights, BatchNorm
    statistics and `trainable` flags are left as they are. It may end in a softmax: what is used are
    its logits. `get_config` holds its architecture, not its weights.

    Args:
        teacher: a trained `keras.Model` with the classes of the model that is taught. Of several
            inputs it takes those of that model.
    """

    def __init__(self, teacher):
        if not isinstance(teacher, keras.Model):
            raise ValueError(
                "Argument `teacher` must be a keras.Model: `keras.models.load_model` reads one "
                f"from a file. Received: teacher={teacher!r}"
            )
        self.teacher = teacher
        self._untrained = None

    def check(self, model, threat_model):
        if self.teacher is self._untrained:
            warnings.warn(
                "A config holds the architecture of the teacher and not its weights, so that these "
                "are random unless they were loaded since. Set `objective.teacher` to a trained "
                f"model. Received: the teacher {self.teacher.name!r}, made from a config",
                stacklevel=2,
            )
        if not self.teacher.built:
            raise ValueError(
                "The teacher has no weights yet: train it first, or load one that is trained. "
                f"Received: teacher={self.teacher!r}, which is not built"
            )
        taught = {id(variable) for variable in model.variables}
        if any(id(variable) in taught for variable in self.teacher.variables):
            raise ValueError(
                "The teacher must stay what it is, and shares weights with the model that is "
                "trained. Give it weights of its own: `keras.models.clone_model`, then "
                "`set_weights`. Received: "
                f"the teacher {self.teacher.name!r} for the model {model.name!r}"
            )
        outputs = [one.outputs for one in (self.teacher, model) if hasattr(one, "outputs")]
        if len(outputs) == 2 and None not in outputs:  # Else they are compared in the first step.
            _check_same(self.teacher, outputs[0], model, outputs[1])

    @classmethod
    def from_config(cls, config):
        objective = super().from_config(config)
        if isinstance(config.get("teacher"), dict):
            objective._untrained = objective.teacher
        return objective

    def teacher_logits(self, classifier, x):
        """Returns the logits of the teacher, float32 `(batch_size, num_classes)`.

        Args:
            classifier: `models.Classifier` of the model that is taught.
            x: float tensor `(batch_size, ...)`, clean examples.
        """
        inputs = classifier.pack(x)
        leaves = keras.tree.flatten(inputs)
        teacher = models.Classifier(self.teacher)
        if len(leaves) > 1:
            teacher = models.Classifier(self.teacher, lambda _: inputs)
        return ops.stop_gradient(teacher.logits(leaves[0]))

    def soft_targets(self, classifier, teacher_logits, logits, temperature=1.0):
        """Returns `losses.soft_targets`, `(batch_size,)`, or says that the classes differ."""
        if teacher_logits.shape[-1] != logits.shape[-1]:
            _check_same(self.teacher, teacher_logits, classifier.model, logits)
        return losses.soft_targets(teacher_logits, logits, temperature)


def _check_same(teacher, teacher_outputs, model, outputs):
    """Raises `ValueError` unless both are classifications of as many classes."""
    sizes = [
        _num_classes(one, tensors)
        for one, tensors in ((teacher, teacher_outputs), (model, outputs))
    ]
    if None in sizes or sizes[0] != sizes[1]:
        raise ValueError(
            "The teacher and the model that it teaches must have one classification output each, "
            "of the same classes. "
            f"Received: a teacher with {_describe(teacher, teacher_outputs)} for "
            f"a model with {_describe(model, outputs)}"
        )


def _num_classes(model, outputs):
    """Returns the number of classes, or `None` for what is no classifier."""
    classifier = models.Classifier(model)
    if not classifier.is_classification(outputs):
        return None
    return max(models.single(outputs).shape[-1], 2)


def _describe(model, outputs):
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(outputs)]
    loss = models.Classifier(model).loss_name
    return f"outputs of shape {', '.join(map(str, shapes))}" + (loss and f" under the loss {loss}")
