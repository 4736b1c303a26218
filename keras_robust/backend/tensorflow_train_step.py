"""TensorFlow: the adversarial train step, in place of the one of `keras.Model`."""

import keras
import tensorflow as tf

from keras_robust import losses
from keras_robust.backend.batch import Batch
from keras_robust.backend.classifier import single
from keras_robust.backend.explained import explained
from keras_robust.backend.tensorflow import fold_in
from keras_robust.backend.tensorflow_checks import check_distribution
from keras_robust.backend.tensorflow_checks import check_inputs
from keras_robust.backend.tensorflow_checks import check_labels
from keras_robust.backend.tensorflow_checks import check_targets
from keras_robust.backend.tensorflow_trainer import Trainer


class TrainStep:
    """Checks a batch, and has the objective take its optimizer step on it.

    Everything random and every schedule is a function of `(seed, optimizer.iterations, replica)`.

    Args:
        model: compiled `keras.Model`.
        attack, objective, threat_model: objects with `perturb`, `step` and `expose`.
        ramp: pair of ints, the optimizer step at which epsilon starts to grow from 0, and the
            number of steps until it is there; 0 for none.
        seed: int.
        attack_dtype: `"bfloat16"`, `"float16"`, or `None` for the dtype of each layer.

    Attributes `adv_accuracy`, `accuracy` (of clean examples), `zero_gradient` (share of examples
    whose every input gradient was zero) and `misread` (share of batches on which probabilities
    were taken for logits or the reverse, for XLA, which cannot fail) are running means since
    `reset_meters`; `num_classes` is known after the first step, and 0 for what is no classifier.
    """

    def __init__(
        self, model, attack, objective, threat_model, *, ramp=(0, 0), seed, attack_dtype=None
    ):
        check_distribution(model)
        self.model = model
        self.attack = attack
        self.objective = objective
        self.threat_model = threat_model
        self.ramp = ramp
        self.seed = seed
        self.attack_dtype = attack_dtype
        self.num_classes = 0
        with model.distribute_strategy.scope():
            self.adv_accuracy = keras.metrics.Mean()
            self.accuracy = keras.metrics.Mean()
            self.zero_gradient = keras.metrics.Mean()
            self.misread = keras.metrics.Mean()
        self._delta = None
        self._memory = None
        self._compiled_update = self._update
        self._checks_outputs = True
        self._is_built = False

    def use_xla(self):
        """Compiles the update, and leaves the checks of inputs, which XLA cannot do, outside."""
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "Keras cannot compile a train step with XLA under a strategy of several replicas. "
                "Use jit_compile=False. Received: jit_compile=True with "
                f"{self.model.distribute_strategy.num_replicas_in_sync} replicas"
            )
        self._checks_outputs = False
        self._compiled_update = tf.function(self._update, jit_compile=True, autograph=False)

    def build(self, iterator):
        """Makes the variables of model, optimizer, metrics and step, told by the data to come.

        Made on the first batch, as Keras does, they would have TensorFlow trace the step twice.
        """
        if self._is_built:
            return
        self._is_built = True
        model = self.model
        spec = getattr(iterator, "element_spec", None)
        x = y = sample_weight = None
        if spec is not None and model.distribute_strategy.num_replicas_in_sync == 1:
            symbols = keras.tree.map_structure(_symbol, spec)
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(symbols)
        # Keras has no public way to build them.
        parts = [getattr(model, name, None) for name in ("_compile_metrics", "_compile_loss")]
        parts = [part for part in parts if part is not None and not part.built and y is not None]
        if x is not None and (parts or not model.built):
            with explained("The model cannot run on these inputs", inputs=x):
                outputs = model(x)
        if model.built and not model.trainable_weights:
            raise ValueError(
                "The model has no trainable weights, so that there is nothing to train. Set "
                "`trainable = True` for some of its layers, and compile it again. "
                f"Received: {len(model.weights)} weights, none of them trainable"
            )
        # Built for a model without weights, it would refuse those that come later.
        if model.built and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        for part in parts:
            with explained("The labels do not fit the model", outputs=outputs, labels=y):
                part.build(y, outputs)
        if x is not None and y is not None:
            self._remember(self.threat_model.expose(model, x)[0], y, sample_weight)

    def reset_meters(self):
        """Starts the running means anew."""
        for meter in (self.adv_accuracy, self.accuracy, self.zero_gradient, self.misread):
            meter.reset_state()

    def over_replicas(self, logs):
        """Returns the logs of all replicas together; a step returns means over the replicas.

        Those are not the same for an uneven batch, nor ever for a metric such as the AUC.
        """
        if self.model.distribute_strategy.num_replicas_in_sync == 1:
            return logs
        whole = {**self.model.get_metrics_result(), "adv_accuracy": self.adv_accuracy.result()}
        return {name: whole.get(name, value) for name, value in logs.items()}

    def __call__(self, data):
        """Runs the step on one batch and returns the logs."""
        inputs, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("AdvTrain needs labels to train on. Received: y=None")
        x, classifier, threat_model = self.threat_model.expose(self.model, inputs)
        threat_model.check_fits(tuple(x.shape))
        unlabelled = self.objective.takes_unlabelled
        checks = check_inputs(inputs, self.threat_model)
        checks += check_targets(y, sample_weight)
        checks += check_labels(classifier, x, y, unlabelled, sample_weight)
        with tf.control_dependencies(checks):
            inputs = keras.tree.map_structure(tf.identity, inputs)
        self._remember(x, y, sample_weight)
        delta = self._carried_delta(x) if self.objective.carries_delta else None
        logs, delta = self._compiled_update(inputs, y, sample_weight, delta)
        if delta is not None:
            self._carry(delta)
        return logs

    def _update(self, inputs, y, sample_weight, delta):
        threat_model, iteration, seed = self._circumstances()
        x, classifier, threat_model = threat_model.expose(self.model, inputs)
        classifier.attack_dtype = self.attack_dtype
        batch = Batch(x, y, sample_weight, threat_model, iteration, seed, delta, self._memory)
        trainer = Trainer(classifier, batch, checks_outputs=self._checks_outputs)
        result = self.objective.step(trainer, self.attack, batch)
        if trainer.misread is not None:
            self.misread.update_state(tf.cast(trainer.misread, tf.float32))
        self._track_loss(result.loss, x)
        logs = self.model.compute_metrics(inputs, y, trainer.outputs, sample_weight=sample_weight)
        return {
            **logs,
            **self._measure(classifier, trainer.outputs, y, result.adversarial),
        }, result.delta

    def _circumstances(self):
        """Returns the threat model of this step, `optimizer.iterations`, and the seed."""
        optimizer = self.model.optimizer
        iteration = tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.int32)
        # Gradient accumulation divides `iterations`; the seed counts every batch.
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        batches = tf.cast(tf.convert_to_tensor(getattr(inner, "_iterations", iteration)), tf.int32)
        threat_model = self.threat_model.at(iteration)
        start, num_steps = self.ramp
        if num_steps:
            done = tf.cast(iteration + 1 - start, tf.float32) / num_steps
            threat_model = threat_model.scaled(tf.clip_by_value(done, 0.0, 1.0))
        seed = tf.stack([tf.constant(self.seed), batches])
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, tf.cast(replica.replica_id_in_sync_group, tf.int32))
        return threat_model, iteration, seed

    def _carried_delta(self, x):
        """Returns the perturbation that the last batch left, with as many rows as `x` has."""
        rows = tf.shape(x)[0]
        return tf.concat([self._delta, tf.zeros_like(x)], axis=0)[:rows]

    def _carry(self, delta):
        # A short last batch leaves the rows that it did not have.
        self._delta.assign(tf.concat([delta, self._delta[tf.shape(delta)[0] :]], axis=0))

    def _remember(self, x, y, sample_weight):
        """Makes the variables in which the objective keeps what it needs later in this `fit`."""
        if self.objective.carries_delta and self._delta is None:
            self._require_one_replica("one perturbation")
            self._delta = self._new_delta(tuple(x.shape[1:]))
        if self._memory is None:
            with tf.init_scope():
                self._memory = self.objective.new_memory(x, y, sample_weight)
        if self._memory is not None:
            self._require_one_replica("a memory")

    def _new_delta(self, shape):
        if None in shape:
            raise ValueError(
                f"{type(self.objective).__name__} keeps one perturbation from batch to batch, "
                "so that all examples must have one shape. Pad or crop them, or use another "
                f"objective. Received: examples of shape {shape}"
            )
        with tf.init_scope():
            return tf.Variable(tf.zeros((0, *shape)), shape=(None, *shape), trainable=False)

    def _require_one_replica(self, what):
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                f"{type(self.objective).__name__} keeps {what} from batch to batch, "
                "which several replicas cannot share. Train on one device, or use another "
                f"objective. Received: a strategy of {replicas} replicas"
            )

    def _track_loss(self, loss, x):
        """Feeds Keras's own `loss` metric, as its train step does."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for metric in self.model.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas, sample_weight=tf.shape(x)[0])

    def _measure(self, classifier, outputs, y, adversarial):
        """Feeds the meters; returns what of them belongs into the logs."""
        attacked = self.objective.attacked(adversarial.batch)
        blind = tf.cast(adversarial.found.zero_gradient, tf.float32)
        self.zero_gradient.update_state(blind, attacked)
        if not classifier.is_classification(outputs, y):
            return {}
        self.accuracy.update_state(*self._hits(classifier, outputs, y))
        if not self.objective.runs_attack:
            return {}
        adv_outputs = adversarial.outputs if adversarial.was_used else classifier(adversarial.x)
        hits, labelled = self._hits(classifier, adv_outputs, adversarial.y)
        if attacked is not None:
            labelled = labelled * tf.cast(attacked, tf.float32)
        self.adv_accuracy.update_state(hits, labelled)
        return {"adv_accuracy": self.adv_accuracy.result()}

    def _hits(self, classifier, outputs, y):
        """Returns, per example, whether it is right, and whether it has a label; as floats."""
        logits = classifier.to_logits(outputs, y)
        self.num_classes = logits.shape[-1]
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        labels = losses.to_indices(single(y), self.num_classes)
        return tf.cast(predicted == labels, tf.float32), tf.cast(labels >= 0, tf.float32)


def _symbol(spec):
    """Returns a symbolic tensor for the specification of a tensor, and `None` for anything else."""
    if not isinstance(spec, tf.TensorSpec):
        return None
    return keras.KerasTensor(spec.shape, spec.dtype.name)
