"""The adversarial train step: the part that all backends share."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import models
from keras_robust.attacks.data import dict_advice
from keras_robust.models.input_errors import input_error_context
from keras_robust.models.structures import single
from keras_robust.training.batch import Batch
from keras_robust.training.gradients import StepResult
from keras_robust.training.input_checks import attacked_inputs
from keras_robust.training.input_checks import check_inputs
from keras_robust.training.input_checks import share_of_range
from keras_robust.training.label_checks import check_labels
from keras_robust.training.label_checks import check_targets
from keras_robust.training.output_checks import warn_of_metrics
from keras_robust.training.steps_taken import batches_seen
from keras_robust.training.steps_taken import steps_taken


class BaseTrainStep:
    """Checks a batch, and lets the objective take its optimizer step on it.

    All random numbers and schedules are functions of `(seed, optimizer.iterations, replica)`.

    A backend writes the methods `__call__`, `forget`, `use_xla`, `_make_gradient_step` and
    `_new_delta`. It may override `build`, `wrap_train_function`, `aggregate_logs`, `_num_replicas`,
    `_of_replica` and `_new_objective_state`. All other methods are final.

    Args:
        model: compiled `keras.Model`.
        attack: object with a method `perturb`.
        objective: object with a method `step`.
        threat_model: object with a method `bind`.
        epsilon_warmup: pair of ints, the optimizer step at which epsilon starts to grow from 0, and
            the number of steps in which it grows; 0 for no warm-up.
        seed: int.
        attack_dtype: `"bfloat16"`, `"float16"`, or `None` for the dtype of each layer.

    Attributes that are running means since `reset_meters`:

    - `adv_accuracy`, the accuracy on adversarial examples;
    - `adv_loss`, the compiled loss of adversarial examples, where there is no accuracy;
    - `accuracy`, the accuracy on clean examples;
    - `zero_gradient`, the share of examples whose input gradients were all zero;
    - `logits_mismatch`, the share of batches with a mismatch of logits and probabilities, which XLA
      cannot report by an error;
    - `share_of_range`, see the function of that name.

    Attributes known after the first step: `num_classes`, 0 for models that are not classifiers, and
    `attacked_inputs`, see `attacked_inputs`.
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
        self.attacked_inputs = []
        with backend.variable_scope(model):
            # Variables, so that another `fit` can change them without compiling the step again.
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
        self._objective_state = None

    def __call__(self, *arguments):
        """Runs the step on one batch, with the arguments and results of Keras's own train step."""
        raise NotImplementedError

    def forget(self):
        """Discards the compiled code, because the objects that it was compiled for have changed."""
        raise NotImplementedError

    def use_xla(self):
        """Makes the step compile a part of itself with XLA, until `forget` is called."""
        raise NotImplementedError

    def _make_gradient_step(self, classifier, batch):
        """Returns the `GradientStep` of the backend."""
        raise NotImplementedError

    def _new_delta(self, x):
        """Returns the perturbation of zeros with which a `fit` starts.

        Args:
            x: symbolic tensor, the tensor that is attacked. All dimensions but the first are known.
        """
        raise NotImplementedError

    @property
    def epsilon_warmup(self):
        """The pair of ints."""
        return self._epsilon_warmup

    @epsilon_warmup.setter
    def epsilon_warmup(self, epsilon_warmup):
        self._epsilon_warmup = tuple(epsilon_warmup)
        # Keras counts in int32 on JAX, which may be too small for a long warm-up.
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
        """Creates the variables of a step before its first batch. By default it does nothing.

        Args:
            iterator: the data, as Keras passes it to a train function.
        """

    @property
    def carries_on(self):
        """Whether the step keeps a state from batch to batch, which no other `fit` may use."""
        return self._delta is not None or self._objective_state is not None

    def wrap_train_function(self, train_function, check):
        """Returns a train function of Keras with checks, and with a valid state after exceptions.

        `check` is called after every batch, and may raise.
        """

        def run_batch(*arguments):
            logs = train_function(*arguments)
            check()
            return logs

        return run_batch

    def reset_meters(self):
        """Resets the running means."""
        for meter in self._meters:
            meter.reset_state()

    @property
    def _meters(self):
        meters = self.adv_accuracy, self.adv_loss, self.accuracy, self.zero_gradient
        return *meters, self.logits_mismatch, self.share_of_range

    @property
    def _own_variables(self):
        """The variables that the step reads or assigns, apart from those of the model."""
        meters = [variable for meter in self._meters for variable in meter.variables]
        return [self._epsilon_warmup_variable, self._seed_variable, *meters]

    def aggregate_logs(self, logs):
        """Returns the logs over all replicas, given the means of the logs of the replicas.

        The two differ for an uneven batch, and for metrics such as the AUC.
        """
        return logs

    @property
    def _num_replicas(self):
        """The number of replicas that share a batch."""
        return 1

    def _of_replica(self, seed):
        """Returns the seed for the current replica."""
        return seed

    def _new_objective_state(self, x, y, sample_weight):
        """Returns the variables of the objective for this `fit`, or `None`."""
        return self.objective.new_objective_state(x, y, sample_weight)

    def _refuse_frozen(self):
        """Raises ValueError for a model without trainable weights."""
        model = self.model
        if model.built and not model.trainable_weights:
            raise ValueError(
                "The model has no trainable weights, so that there is nothing to train. Set "
                "`trainable = True` for some of its layers, and compile it again. "
                f"Received: {len(model.weights)} weights, none of them trainable"
            )

    def _refuse_no_labels(self, inputs):
        """Raises ValueError for data without labels."""
        advice = dict_advice(inputs) if isinstance(inputs, dict) else ""
        if self.model.loss is None:
            advice = (
                "The attack maximizes the compiled loss, which does not include a loss that the "
                "model adds itself, with `add_loss` in an endpoint layer. End the model at its "
                "outputs, compile it with the loss, and pass the labels as y, `fit(x, y)`. "
            )
        raise ValueError(f"AdvTrain needs labels to train on. {advice}Received: y=None")

    def _requirements(self, inputs, y, sample_weight):
        """Returns the tensor that is attacked, and a list of `Requirement` for the batch.

        Raises:
            ValueError: for data that no batch can have, such as labels of a wrong shape.
        """
        if y is None:
            self._refuse_no_labels(inputs)
        x, classifier, threat_model = self.threat_model.bind(self.model, inputs)
        threat_model.check_shape(tuple(x.shape))
        self.attacked_inputs = attacked_inputs(inputs, self.threat_model)
        models.refuse_guards(self.model, self.threat_model)
        unlabelled = self.objective.takes_unlabelled
        required = check_inputs(inputs, self.threat_model) + check_targets(y, sample_weight)
        return x, required + check_labels(classifier, x, y, unlabelled, sample_weight)

    def _update(self, inputs, y, sample_weight, delta):
        """Takes the step; returns the logs, `delta` for the next batch, and requirements."""
        threat_model, iteration, seed = self._step_context()
        # Measure the full radius, which the warm-up has not reached yet.
        full = self.threat_model.at(iteration)
        self.share_of_range.update_state(share_of_range(inputs, full))
        x, classifier, threat_model = threat_model.bind(self.model, inputs)
        classifier = classifier.with_attack_dtype(self.attack_dtype)
        batch = Batch(
            x, y, sample_weight, threat_model, iteration, seed, delta, self._objective_state
        )
        gradient_step = self._make_gradient_step(classifier, batch)
        with input_error_context(self.model):
            result = self.objective.step(gradient_step, self.attack, batch)
        # A custom `step` may forget to apply the gradients, and would then train nothing.
        self._refuse_not_applied(result)
        if result.logits_mismatch is not None:
            self.logits_mismatch.update_state(ops.cast(result.logits_mismatch, "float32"))
        self._track_loss(result.loss, x)
        # As in Keras, metrics see the outputs from before the update.
        logs = self.model.compute_metrics(inputs, y, result.outputs, sample_weight=sample_weight)
        measured = self._measure(gradient_step, y, result)
        warn_of_metrics(classifier, result.outputs, y, logs)
        return {**logs, **measured}, result.delta, result.requirements

    def _refuse_not_applied(self, result):
        """Raises ValueError unless a step of the objective returned what `apply` returns."""
        if isinstance(result, StepResult) and result.outputs is not None:
            return
        received = f"an object of type {type(result).__name__}"
        if isinstance(result, StepResult):
            received = "a StepResult that `apply` did not return"
        raise ValueError(
            "The method `step` of an objective must return the result of "
            "`gradient_step.apply(...)`, whose fields may be replaced with `_replace`. "
            f"Received: {received}, from {type(self.objective).__name__}.step"
        )

    def _step_context(self):
        """Returns the threat model of this step, the number of optimizer steps, and the seed."""
        optimizer = self.model.optimizer
        iteration = steps_taken(optimizer)
        start, num_steps = ops.unstack(self._epsilon_warmup_variable + 0)
        # Subtract as integers: float32 cannot represent all step counts above 2**24.
        done = ops.cast(iteration - start, "float32") + 1.0
        share = ops.clip(done / ops.cast(ops.maximum(num_steps, 1), "float32"), 0.0, 1.0)
        share = ops.where(num_steps > 0, share, 1.0)
        threat_model = self.threat_model.at(iteration).scaled(share)
        # Derived from the step, so that a resumed training draws the same numbers.
        seed = ops.stack([self._seed_variable + 0, batches_seen(self.model.optimizer)])
        return threat_model, iteration, self._of_replica(seed)

    def _carried_delta(self, kept, x):
        """Returns the perturbation of the last batch, with as many rows as `x`."""
        # `kept` is shorter than `x` if no batch before had as many rows.
        delta = ops.concatenate([kept, ops.zeros_like(x)], axis=0)[: ops.shape(x)[0]]
        if self.threat_model.shares_perturbation:
            # A short batch has moved the first rows only.
            return ops.broadcast_to(delta[:1], ops.shape(x))
        return delta

    def _carried(self, delta, kept):
        """Returns the perturbation for the next batch; a short batch keeps the missing rows."""
        return ops.concatenate([delta, kept[ops.shape(delta)[0] :]], axis=0)

    def _remember(self, x, y, sample_weight):
        """Creates the variables in which the objective keeps its state during this `fit`."""
        if self.objective.persistent_delta and self._delta is None:
            self._require_one_replica("one perturbation")
            self._require_one_shape(tuple(x.shape[1:]))
            self._delta = self._new_delta(x)
        if self._objective_state is None:
            self._objective_state = self._new_objective_state(x, y, sample_weight)
        if self._objective_state is not None:
            self._require_one_replica("a state")

    def _require_one_shape(self, shape):
        if None in shape:
            raise ValueError(
                f"{type(self.objective).__name__} keeps one perturbation from batch to batch, so "
                "that all examples must have the same shape. Pad or crop them, or use another "
                f"objective. Received: examples of shape {shape}"
            )

    def _require_one_replica(self, what):
        if self._num_replicas > 1:
            raise ValueError(
                f"{type(self.objective).__name__} keeps {what} from batch to batch, "
                "which several replicas cannot share. Train on one device, or use another "
                f"objective. Received: a strategy of {self._num_replicas} replicas"
            )

    def _track_loss(self, loss, x):
        """Updates Keras's own `loss` metric, as the train step of Keras does."""
        for metric in self.model.metrics:
            if metric.name == "loss":
                # The loss of a replica is a share: it was divided by the number of replicas.
                metric.update_state(loss * self._num_replicas, sample_weight=ops.shape(x)[0])

    def _measure(self, gradient_step, y, result):
        """Updates the running means; returns those that belong in the logs."""
        classifier, adversarial = gradient_step.classifier, result.adversarial
        attacked_mask = self.objective.attacked_mask(adversarial.batch)
        has_zero_gradient = ops.cast(result.zero_gradient, "float32")
        self.zero_gradient.update_state(has_zero_gradient, attacked_mask)
        if not classifier.is_classification(result.outputs, y):
            return self._measure_loss(gradient_step, adversarial)
        logits = classifier.to_logits(result.outputs, y)
        self.num_classes = logits.shape[-1]
        # Compiled metrics count examples without a label as wrong; these means leave them out.
        self.accuracy.update_state(*_hits(logits, y))
        if not self.objective.runs_attack:
            return {}
        outputs = gradient_step.outputs_of(adversarial)
        hits, labelled = _hits(classifier.to_logits(outputs, adversarial.y), adversarial.y)
        if attacked_mask is not None:
            # Examples that the objective does not attack do not count.
            labelled = labelled * ops.cast(attacked_mask, "float32")
        self.adv_accuracy.update_state(hits, labelled)
        return {"adv_accuracy": self.adv_accuracy.result()}

    def _measure_loss(self, gradient_step, adversarial):
        """Updates the running mean of the adversarial loss; returns the entry for the logs."""
        # The loss is one number for the whole batch, so that it cannot leave out clean examples.
        if (
            not self.objective.runs_attack
            or self.objective.attacked_mask(adversarial.batch) is not None
        ):
            return {}
        loss = gradient_step.loss_of(adversarial) * self._num_replicas
        self.adv_loss.update_state(loss, sample_weight=ops.shape(adversarial.x)[0])
        return {"adv_loss": self.adv_loss.result()}


def _hits(logits, y):
    """Returns, per example, whether it is correct, and whether it has a label, as floats."""
    predicted = ops.argmax(logits, axis=-1)
    labels = losses.to_indices(single(y), logits.shape[-1])
    hits = ops.equal(predicted, ops.cast(labels, predicted.dtype))
    return ops.cast(hits, "float32"), ops.cast(labels >= 0, "float32")
