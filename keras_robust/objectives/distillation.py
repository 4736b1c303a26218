"""Base class of objectives with a teacher."""

import warnings

import keras
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust.objectives.objective import Objective


class Distillation(Objective):
    """An objective with a teacher: another classifier, which sees clean examples and never changes.

    The teacher runs in inference mode, and no gradient flows through it. Its weights, BatchNorm
    statistics and `trainable` flags stay the same. It may end in a softmax, because the objective
    uses its logits. `get_config` contains its architecture, but not its weights.

    Args:
        teacher: a trained `keras.Model` with the same classes and inputs as the student, the model
            in training.
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
                "A config contains the architecture of the teacher but not its weights, so they "
                "are random unless you loaded them. Set `objective.teacher` to a trained model. "
                f"Received: the teacher {self.teacher.name!r}, made from a config",
                stacklevel=2,
            )
        if not self.teacher.built:
            raise ValueError(
                "The teacher has no weights yet: train it first, or load a trained one. "
                f"Received: teacher={self.teacher!r}, which is not built"
            )
        taught = {id(variable) for variable in model.variables}
        if any(id(variable) in taught for variable in self.teacher.variables):
            raise ValueError(
                "The teacher must not change, but it shares weights with the model in training. "
                "Copy it with `keras.models.clone_model` and `set_weights`. Received: "
                f"the teacher {self.teacher.name!r} for the model {model.name!r}"
            )
        outputs = [one.outputs for one in (self.teacher, model) if hasattr(one, "outputs")]
        # The first step compares the outputs of models without symbolic outputs.
        if len(outputs) == 2 and None not in outputs:
            _check_same(self.teacher, outputs[0], model, outputs[1])

    @classmethod
    def from_config(cls, config):
        objective = super().from_config(config)
        if isinstance(config.get("teacher"), dict):
            # Remember this teacher with random weights, about which `check` warns.
            objective._untrained = objective.teacher
        return objective

    def teacher_logits(self, classifier, x):
        """Returns the logits of the teacher, float32 `(batch_size, num_classes)`.

        Args:
            classifier: `models.Classifier` of the student.
            x: float tensor `(batch_size, ...)`, clean examples.
        """
        inputs = classifier.pack(x)
        leaves = keras.tree.flatten(inputs)
        teacher = models.Classifier(self.teacher)
        if len(leaves) > 1:
            # `x` is only the attacked input, but the teacher needs all of them.
            teacher = models.Classifier(self.teacher, lambda _: inputs)
        return ops.stop_gradient(teacher.logits(leaves[0]))

    def soft_targets(self, classifier, teacher_logits, logits, temperature=1.0):
        """Returns `losses.soft_targets`, `(batch_size,)`. Raises ValueError if classes differ."""
        if teacher_logits.shape[-1] != logits.shape[-1]:
            _check_same(self.teacher, teacher_logits, classifier.model, logits)
        return losses.soft_targets(teacher_logits, logits, temperature)


def _check_same(teacher, teacher_outputs, model, outputs):
    """Raises `ValueError` unless both models classify into the same number of classes."""
    sizes = [
        _num_classes(one, tensors)
        for one, tensors in ((teacher, teacher_outputs), (model, outputs))
    ]
    if None in sizes or sizes[0] != sizes[1]:
        raise ValueError(
            "The teacher and the model in training must have one classification output each, with "
            "the same number of classes. "
            f"Received: a teacher with {_describe(teacher, teacher_outputs)} for "
            f"a model with {_describe(model, outputs)}"
        )


def _num_classes(model, outputs):
    """Returns the number of classes, or `None` for a model that is not a classifier."""
    classifier = models.Classifier(model)
    if not classifier.is_classification(outputs):
        return None
    return max(models.single(outputs).shape[-1], 2)


def _describe(model, outputs):
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(outputs)]
    loss = models.Classifier(model).loss_name
    return f"outputs of shape {', '.join(map(str, shapes))}" + (loss and f" under the loss {loss}")
