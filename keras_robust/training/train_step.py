"""The adversarial train step, in place of the one of `keras.Model`, as far as frameworks agree."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import models
from keras_robust.models.classifier import single
from keras_robust.models.input_errors import input_error_context
from keras_robust.training.batch import Batch
from keras_robust.training.checks import attacked_inputs
from keras_robust.training.checks import check_inputs
from keras_robust.training.checks import check_labels
from keras_robust.training.checks import check_targets
from keras_robust.training.checks import share_of_range
from keras_robust.training.checks import tell_of_classes
from keras_robust.training.steps_taken import batches_seen
from keras_robust.training.steps_taken import steps_taken


class BaseTrainStep:
    """Checks a batch, and has the objective take its optimizer step on it.

    Everything random and every schedule is a function of `(seed, optimizer.iterations, replica)`.

    Args:
        model: compiled `keras.Model`.
        attack, objective, threat_model: objects with `perturb`, `step` and `bind`.
        ramp: pair of ints, the optimizer step at which epsilon starts to grow from 0, and the
            number of steps until it is there; 0 for none.
        seed: int.
        attack_dtype: `"bfloat16"`, `"float16"`, or `None` for the dtype of each layer.

    Attributes `adv_accuracy`, `adv_loss` (in its place where there is no accuracy, the compiled
    loss of the adversarial examples), `accuracy` (of clean examples), `zero_gradient` (share of
    examples whose every input gradient was zero) and `logits_mismatch` (share of batches on which
    probabilities were taken for logits or the reverse, for XLA, which cannot fail) and
    `share_of_range` (of what a batch spans, see the function) are running means since
    `reset_meters`; `num_classes`, 0 for what is no classifier, and `attacked` (see
    `attacked_inputs`) are known after the first step.
    """

    def __init__(
        self,
        model,
        attack,
        objective,
        threat_model,
        *,
        epsilon_warmup=(0, 0),
        seed,
        attack_dtype=None,
    ):
        self.model = model
        self.attack = attack
        self.objective = objective
        self.threat_model = threat_model
        self.attack_dtype = attack_dtype
        self.num_classes = 0
        self.attacked = []
        with backend.variable_scope(model):
            # Data of the compiled step, which another `fit` may change.
            self._epsilon_warmup_variable = keras.Variable((0, 0), trainable=False, dtype="int")
            self._seed_variable = keras.Variable(0, trainable=False, dtype="int32")
            self.adv_accuracy = keras.metrics.Mean(dtype="float32")
            self.adv_loss = keras.metrics.Mean(dtype="float32")
            self.accuracy = keras.metrics.Mean(dtype="float32")
            self.zero_gradient = keras.metrics.Mean(dtype="float32")
            self.logits_mismatch = keras.metrics.Mean(dtype="float32")
            self.share_of_range = keras.metrics.Mean(dtype="float32")
        self.epsilon_warmup, self.seed = epsilon_warmup, seed
        self._delta = None
        self._memory = None

    @property
    def epsilon_warmup(self):
        """The pair of ints."""
        return self._epsilon_warmup

    @epsilon_warmup.setter
    def epsilon_warmup(self, epsilon_warmup):
        self._epsilon_warmup = tuple(epsilon_warmup)
        last = np.iinfo(self._epsilon_warmup_variable.dtype).max
        self._epsilon_warmup_variable.assign([min(steps, last) for steps in self._epsilon_warmup])

    @property
    def seed(self):
        """The int."""
        return self._seed

    @seed.setter
    def seed(self, seed):
        self._seed = seed
        self._seed_variable.assign(seed)

    def build(self, iterator):
        """Makes the variables that a step needs, told by the data to come, if Keras has not."""

    def forget(self):
        """Has what was compiled made anew, since what it was made for has changed."""

    @property
    def carries_on(self):
        """Whether a batch leaves something behind for the next, which no other `fit` must see."""
        return self._delta is not None or self._memory is not None

    def wrap_train_function(self, train_function, check):
        """Returns the train function that Keras made around this step, fit for exceptions.

        `check` is called after it, and may raise.
        """

        def wrap_train_function(*arguments):
            logs = train_function(*arguments)
            check()
            return logs

        return wrap_train_function

    def reset_meters(self):
        """Starts the running means anew."""
        for meter in self._meters:
            meter.reset_state()

    @property
    def _meters(self):
        meters = self.adv_accuracy, self.adv_loss, self.accuracy, self.zero_gradient
        return *meters, self.logits_mismatch, self.share_of_range

    @property
    def _own_variables(self):
        """The variables beside those of the model that the step reads or assigns."""
        meters = [variable for meter in self._meters for variable in meter.variables]
        return [self._epsilon_warmup_variable, self._seed_variable, *meters]

    def aggregate_logs(self, logs):
        """Returns the logs of all replicas together; a step returns means over the replicas.

        Those are not the same for an uneven batch, nor ever for a metric such as the AUC.
        """
        return logs

    @property
    def _num_replicas(self):
        return 1

    def _of_replica(self, seed):
        """Returns the seed for the replica that asks."""
        return seed

    def _refuse_frozen(self):
        model = self.model
        if model.built and not model.trainable_weights:
            raise ValueError(
                "The model has no trainable weights, so that there is nothing to train. Set "
                "`trainable = True` for some of its layers, and compile it again. "
                f"Received: {len(model.weights)} weights, none of them trainable"
            )

    def _refuse_no_labels(self):
        advice = ""
        if self.model.loss is None:
            advice = (
                "The attack raises the compiled loss, and a loss that the model adds itself, with "
                "`add_loss` in an endpoint layer, is none: end the model in its outputs, compile "
                "it with the loss, and pass the labels as y, `fit(x, y)`. "
            )
        raise ValueError(f"AdvTrain needs labels to train on. {advice}Received: y=None")

    def _trainer(self, classifier, batch):
        """Returns the `GradientStep` of the framework."""
        raise NotImplementedError

    def _requirements(self, inputs, y, sample_weight):
        """Returns the tensor that is attacked, and a list of `Requirement` for the batch.

        What no batch can be raises `ValueError`.
        """
        if y is None:
            self._refuse_no_labels()
        x, classifier, threat_model = self.threat_model.bind(self.model, inputs)
        threat_model.check_shape(tuple(x.shape))
        self.attacked = attacked_inputs(inputs, self.threat_model)
        models.refuse_guards(self.model, self.threat_model)
        unlabelled = self.objective.takes_unlabelled
        required = check_inputs(inputs, self.threat_model) + check_targets(y, sample_weight)
        return x, required + check_labels(classifier, x, y, unlabelled, sample_weight)

    def _update(self, inputs, y, sample_weight, delta):
        """Takes the step; returns the logs, `delta` for the next batch, and requirements."""
        threat_model, iteration, seed = self._step_context()
        full = self.threat_model.at(iteration)
        self.share_of_range.update_state(share_of_range(inputs, full))
        x, classifier, threat_model = threat_model.bind(self.model, inputs)
        classifier.attack_dtype = self.attack_dtype
        batch = Batch(x, y, sample_weight, threat_model, iteration, seed, delta, self._memory)
        gradient_step = self._trainer(classifier, batch)
        with input_error_context(self.model):
            result = self.objective.step(gradient_step, self.attack, batch)
        if gradient_step.logits_mismatch is not None:
            self.logits_mismatch.update_state(ops.cast(gradient_step.logits_mismatch, "float32"))
        self._track_loss(result.loss, x)
        logs = self.model.compute_metrics(
            inputs, y, gradient_step.outputs, sample_weight=sample_weight
        )
        measured = self._measure(gradient_step, y, result.adversarial)
        tell_of_classes(classifier, gradient_step.outputs, y, logs)
        return {**logs, **measured}, result.delta, gradient_step.requirements

    def _step_context(self):
        """Returns the threat model of this step, the optimizer steps so far, and the seed."""
        optimizer = self.model.optimizer
        iteration = steps_taken(optimizer)
        start, num_steps = ops.unstack(self._epsilon_warmup_variable + 0)
        # Counted in integers: float32 knows no steps above 2**24.
        done = ops.cast(iteration - start, "float32") + 1.0
        share = ops.clip(done / ops.cast(ops.maximum(num_steps, 1), "float32"), 0.0, 1.0)
        share = ops.where(num_steps > 0, share, 1.0)
        threat_model = self.threat_model.at(iteration).scaled(share)
        seed = ops.stack([self._seed_variable + 0, batches_seen(self.model.optimizer)])
        return threat_model, iteration, self._of_replica(seed)

    def _carried_delta(self, kept, x):
        """Returns the perturbation that the last batch left, with as many rows as `x` has."""
        return ops.concatenate([kept, ops.zeros_like(x)], axis=0)[: ops.shape(x)[0]]

    def _carried(self, delta, kept):
        """Returns what the next batch is left: a short batch leaves the rows it did not have."""
        return ops.concatenate([delta, kept[ops.shape(delta)[0] :]], axis=0)

    def _remember(self, x, y, sample_weight):
        """Makes the variables in which the objective keeps what it needs later in this `fit`."""
        if self.objective.persistent_delta and self._delta is None:
            self._require_one_replica("one perturbation")
            self._delta = self._new_delta(tuple(x.shape[1:]))
        if self._memory is None:
            self._memory = self._new_objective_state(x, y, sample_weight)
        if self._memory is not None:
            self._require_one_replica("a memory")

    def _new_objective_state(self, x, y, sample_weight):
        return self.objective.new_objective_state(x, y, sample_weight)

    def _new_delta(self, shape):
        if None in shape:
            raise ValueError(
                f"{type(self.objective).__name__} keeps one perturbation from batch to batch, "
                "so that all examples must have one shape. Pad or crop them, or use another "
                f"objective. Received: examples of shape {shape}"
            )
        return ops.zeros((0, *shape), "float32")

    def _require_one_replica(self, what):
        if self._num_replicas > 1:
            raise ValueError(
                f"{type(self.objective).__name__} keeps {what} from batch to batch, "
                "which several replicas cannot share. Train on one device, or use another "
                f"objective. Received: a strategy of {self._num_replicas} replicas"
            )

    def _track_loss(self, loss, x):
        """Feeds Keras's own `loss` metric, as its train step does."""
        for metric in self.model.metrics:
            if metric.name == "loss":
                metric.update_state(loss * self._num_replicas, sample_weight=ops.shape(x)[0])

    def _measure(self, gradient_step, y, adversarial):
        """Feeds the meters; returns what of them belongs into the logs."""
        classifier, outputs = gradient_step.classifier, gradient_step.outputs
        attacked = self.objective.attacked_mask(adversarial.batch)
        blind = ops.cast(adversarial.found.zero_gradient, "float32")
        self.zero_gradient.update_state(blind, attacked)
        if not classifier.is_classification(outputs, y):
            return self._measure_loss(gradient_step, adversarial)
        self.accuracy.update_state(*self._hits(classifier, outputs, y))
        if not self.objective.runs_attack:
            return {}
        hits, labelled = self._hits(
            classifier, gradient_step.outputs_of(adversarial), adversarial.y
        )
        if attacked is not None:
            labelled = labelled * ops.cast(attacked, "float32")
        self.adv_accuracy.update_state(hits, labelled)
        return {"adv_accuracy": self.adv_accuracy.result()}

    def _measure_loss(self, gradient_step, adversarial):
        """Feeds the meter of the loss under attack; returns what belongs into the logs."""
        if (
            not self.objective.runs_attack
            or self.objective.attacked_mask(adversarial.batch) is not None
        ):
            return {}
        loss = gradient_step.loss_of(adversarial) * self._num_replicas
        self.adv_loss.update_state(loss, sample_weight=ops.shape(adversarial.x)[0])
        return {"adv_loss": self.adv_loss.result()}

    def _hits(self, classifier, outputs, y):
        """Returns, per example, whether it is right, and whether it has a label; as floats."""
        logits = classifier.to_logits(outputs, y)
        self.num_classes = logits.shape[-1]
        predicted = ops.argmax(logits, axis=-1)
        labels = losses.to_indices(single(y), self.num_classes)
        hits = ops.equal(predicted, ops.cast(labels, predicted.dtype))
        return ops.cast(hits, "float32"), ops.cast(labels >= 0, "float32")
