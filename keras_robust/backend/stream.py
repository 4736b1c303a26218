"""A batch on its way through the model in training mode, as an objective sees it."""

import keras


class Stream:
    """One stream of examples: clean or adversarial.

    The model runs once, in training mode, when the outputs are first asked for; a stream that an
    objective does not use costs nothing. `loss` must be read before the outputs of another stream,
    because Keras keeps activity regularisers of the latest pass only.

    Args:
        classifier: a `backend.Classifier`.
        x: float tensor `(batch_size, ...)`.
        y: labels.
        sample_weight: `(batch_size,)` or `None`; class weights are in it.
    """

    def __init__(self, classifier, x, y, sample_weight):
        self.classifier = classifier
        self.x = x
        self.y = y
        self.sample_weight = sample_weight
        self._outputs = None
        self._call = None
        self._loss = None

    @property
    def was_used(self):
        """Whether the model has run on this stream."""
        return self._outputs is not None

    @property
    def outputs(self):
        """The outputs of the model."""
        if self._outputs is None:
            self._outputs = self.classifier(self.x, training=True)
            self._call = self.classifier.num_calls
        return self._outputs

    @property
    def logits(self):
        """Float32 logits `(batch_size, num_classes)`."""
        return self.classifier.to_logits(self.outputs, self.y)

    @property
    def loss(self):
        """The compiled loss, weighted, with regularisers; a scalar."""
        if self._loss is None:
            outputs = self.outputs
            if self.classifier.num_calls != self._call:
                raise RuntimeError(
                    "An objective must read `stream.loss` before the outputs of another stream."
                )
            self._loss = self.classifier.model.compute_loss(
                self.classifier.pack(self.x), self.y, outputs, self.sample_weight
            )
        return self._loss

    def mean(self, values):
        """Returns the weighted mean of `values`, `(batch_size,)`, reduced as Keras losses are."""
        return _Mean()(values, values, self.sample_weight)


class _Mean(keras.losses.Loss):
    """Reduces per-example values as every Keras loss does, also under distribution."""

    def __init__(self):
        super().__init__(name="mean")

    def call(self, y_true, y_pred):
        return y_pred
