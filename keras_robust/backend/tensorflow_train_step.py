"""TensorFlow: the adversarial train step, in place of the one of `keras.Model`."""

import keras
import tensorflow as tf

from keras_robust import losses
from keras_robust.backend.classifier import Classifier
from keras_robust.backend.classifier import single
from keras_robust.backend.stream import Stream
from keras_robust.backend.tensorflow import fold_in
from keras_robust.backend.tensorflow import require

_TOLERANCE = 1e-3


class TrainStep:
    """Checks a batch, perturbs it, and takes one optimizer step on the objective.

    Everything random and every schedule is a function of `(seed, optimizer.iterations, replica)`.

    Args:
        model: compiled `keras.Model`.
        attack, objective, threat_model: objects with `perturb`, `loss` and `at`.
        ramp_steps: int, optimizer steps over which epsilon grows from 0; 0 for none.
        seed: int.

    Attributes `adv_accuracy`, `accuracy` (of clean examples), `zero_gradient` (share of examples
    whose every input gradient was zero) and `misread` (share of batches on which probabilities
    were taken for logits or the reverse, for XLA, which cannot fail) are running means since
    `reset_meters`; `num_classes` is known after the first step, and 0 for what is no classifier.
    """

    def __init__(self, model, attack, objective, threat_model, *, ramp_steps, seed):
        self.model = model
        self.attack = attack
        self.objective = objective
        self.threat_model = threat_model
        self.ramp_steps = ramp_steps
        self.seed = seed
        self.num_classes = 0
        with model.distribute_strategy.scope():
            self.adv_accuracy = keras.metrics.Mean()
            self.accuracy = keras.metrics.Mean()
            self.zero_gradient = keras.metrics.Mean()
            self.misread = keras.metrics.Mean()
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
        """Makes the variables of optimizer and compiled metrics, told by the data to come.

        Made on the first batch, as Keras does, they would have TensorFlow trace the step twice.
        """
        if self._is_built:
            return
        self._is_built = True
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        spec = getattr(iterator, "element_spec", None)
        if spec is None or model.distribute_strategy.num_replicas_in_sync > 1:
            return
        x, y, _ = keras.utils.unpack_x_y_sample_weight(keras.tree.map_structure(_symbol, spec))
        # Keras has no public way to build them.
        for part in (getattr(model, name, None) for name in ("_compile_metrics", "_compile_loss")):
            if part is not None and not part.built and y is not None:
                part.build(y, model(x))

    def reset_meters(self):
        """Starts the running means anew."""
        for meter in (self.adv_accuracy, self.accuracy, self.zero_gradient, self.misread):
            meter.reset_state()

    def __call__(self, data):
        """Runs the step on one batch and returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("AdvTrain needs labels to train on. Received: y=None")
        image, pack = _single_input(x)
        self.threat_model.check_fits(tuple(image.shape))
        classifier = Classifier(self.model, pack)
        checks = _check_inputs(image, self.threat_model) + _check_labels(classifier, image, y)
        with tf.control_dependencies(checks):
            x = keras.tree.map_structure(tf.identity, x)
        return self._compiled_update(x, y, sample_weight)

    def _update(self, inputs, y, sample_weight):
        x, pack = _single_input(inputs)
        model, classifier = self.model, Classifier(self.model, pack)
        found = self._perturb(classifier, x, y)
        clean = Stream(classifier, x, y, sample_weight)
        adversarial = Stream(classifier, tf.stop_gradient(found.x_adv), y, sample_weight)
        with tf.GradientTape() as tape:
            loss = self.objective.loss(clean, adversarial)
            scaled_loss = model.optimizer.scale_loss(loss)
        outputs = clean.outputs if clean.was_used else classifier(x)
        gradients = tape.gradient(scaled_loss, model.trainable_weights)
        problem = classifier.misread(outputs, y)
        checks = _check_outputs(problem, outputs) if self._checks_outputs else []
        if problem is not None:
            self.misread.update_state(tf.cast(problem[0], tf.float32))
        with tf.control_dependencies(checks):
            model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        self._track_loss(loss, x)
        logs = model.compute_metrics(inputs, y, outputs, sample_weight=sample_weight)
        return {**logs, **self._measure(classifier, outputs, adversarial, y, found)}

    def _perturb(self, classifier, x, y):
        optimizer = self.model.optimizer
        iterations = tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.int32)
        # Gradient accumulation divides `iterations`; the seed counts every batch.
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        batches = tf.cast(tf.convert_to_tensor(getattr(inner, "_iterations", iterations)), tf.int32)
        threat_model = self.threat_model.at(iterations)
        if self.ramp_steps:
            done = tf.cast(iterations + 1, tf.float32) / self.ramp_steps
            threat_model = threat_model.with_epsilon(tf.minimum(done, 1.0) * threat_model.radius)
        seed = tf.stack([tf.constant(self.seed), batches])
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, tf.cast(replica.replica_id_in_sync_group, tf.int32))
        return self.objective.perturb(self.attack, classifier, x, y, threat_model, seed)

    def _track_loss(self, loss, x):
        """Feeds Keras's own `loss` metric, as its train step does."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for metric in self.model.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas, sample_weight=tf.shape(x)[0])

    def _measure(self, classifier, outputs, adversarial, y, found):
        """Feeds the meters; returns what of them belongs into the logs."""
        self.zero_gradient.update_state(tf.cast(found.zero_gradient, tf.float32))
        if not classifier.is_classification(outputs, y):
            return {}
        self.accuracy.update_state(self._hits(classifier, outputs, y))
        if not self.objective.runs_attack:
            return {}
        adv_outputs = adversarial.outputs if adversarial.was_used else classifier(adversarial.x)
        self.adv_accuracy.update_state(self._hits(classifier, adv_outputs, y))
        return {"adv_accuracy": self.adv_accuracy.result()}

    def _hits(self, classifier, outputs, y):
        logits = classifier.to_logits(outputs, y)
        self.num_classes = logits.shape[-1]
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        labels = losses.to_indices(single(y), self.num_classes)
        return tf.cast(predicted == labels, tf.float32)


def _symbol(spec):
    """Returns a symbolic tensor for the specification of a tensor, and `None` for anything else."""
    if not isinstance(spec, tf.TensorSpec):
        return None
    return keras.KerasTensor(spec.shape, spec.dtype.name)


def _single_input(x):
    """Returns the one tensor in the inputs, as floats, and the function that packs it again."""
    leaves = keras.tree.flatten(x)
    if len(leaves) != 1:
        names = list(x) if isinstance(x, dict) else f"{len(leaves)} tensors"
        raise ValueError(
            "AdvTrain perturbs models with one input. Give the model one input and split it "
            "inside, or write the attack into a custom train step with "
            f"`keras_robust.attacks`. Received: inputs {names}"
        )
    image = leaves[0]
    return tf.cast(image, tf.float32), lambda leaf: keras.tree.pack_sequence_as(x, [leaf])


def _check_inputs(x, threat_model):
    """Ops that fail on NaN and on inputs outside the bounds."""
    bad = tf.reduce_sum(tf.cast(~tf.math.is_finite(x), tf.int32))
    checks = [
        require(
            bad == 0,
            "Inputs must be finite. Clean the data, or drop the broken examples. "
            "Received: a batch with {} NaN or infinite values",
            bad,
        )
    ]
    if threat_model.bounds is not None:
        low, high = threat_model.bounds
        inside = tf.reduce_all((x >= low - _TOLERANCE) & (x <= high + _TOLERANCE))
        checks.append(
            require(
                inside | (bad > 0),
                "Inputs must lie in the bounds of the threat model. Rescale them (images: divide "
                "by 255), or give the bounds that they have, with epsilon in the same units: "
                "Linf(8, bounds=(0, 255)). Received: a batch with values from {} to {} "
                f"under bounds={_show(threat_model.bounds)}",
                tf.reduce_min(x),
                tf.reduce_max(x),
            )
        )
    return checks


def _show(bounds):
    return str(tuple(bounds)).replace("{", "(").replace("}", ")").replace("\n", " ")


def _check_labels(classifier, x, y):
    """Ops that fail on labels that are no class of the model."""
    outputs = classifier(x)
    if not classifier.is_classification(outputs, y):
        return []
    num_classes = classifier.to_logits(outputs, y).shape[-1]
    labels = single(y)
    if classifier.loss_name.startswith("sparse") and len(labels.shape) == 2:
        if labels.shape[-1] == num_classes > 1:
            raise ValueError(
                "The loss takes class indices, and the labels are one-hot rows. Use "
                "CategoricalCrossentropy, or `numpy.argmax(y, axis=-1)`. "
                f"Received: labels of shape {tuple(labels.shape)}"
            )
    indices = losses.to_indices(single(y), num_classes)
    return [
        require(
            tf.reduce_all((indices >= 0) & (indices < num_classes)),
            f"Labels must be class indices from 0 to {num_classes - 1}, as the model has "
            f"{num_classes} classes. Received: a batch with labels from {{}} to {{}}",
            tf.reduce_min(indices),
            tf.reduce_max(indices),
        )
    ]


def _check_outputs(problem, outputs):
    """Ops that fail when probabilities are taken for logits, or logits for probabilities."""
    if problem is None:
        return []
    outputs = single(outputs)
    return [require(~problem[0], problem[1], tf.reduce_min(outputs), tf.reduce_max(outputs))]
