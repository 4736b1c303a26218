"""Adversarial training, as a callback of `fit`."""

import contextlib
import inspect
import warnings
import weakref

import keras

from keras_robust import attacks
from keras_robust import backend
from keras_robust import objectives
from keras_robust import threat_models
from keras_robust import training
from keras_robust.attacks.attack_loss import check_seed
from keras_robust.attacks.step_reach import step_size_complaint
from keras_robust.backend.keras_internals import is_of_one_batch
from keras_robust.callbacks.callback_list import put_last
from keras_robust.callbacks.compiled_step import CompiledStep
from keras_robust.callbacks.compiled_step import forget_step
from keras_robust.callbacks.compiled_step import kept_step
from keras_robust.callbacks.first_batch import warn_of_first_batch
from keras_robust.callbacks.print_after import print_after
from keras_robust.callbacks.train_function import LastCallback
from keras_robust.callbacks.train_function import current_fit
from keras_robust.callbacks.train_function import install
from keras_robust.callbacks.train_function import refuse_other_steps
from keras_robust.callbacks.train_function import uninstall
from keras_robust.callbacks.warm_up import WarmUp
from keras_robust.callbacks.warm_up import parse_warmup
from keras_robust.training import TrainStep

_ATTACK_DTYPES = (None, "auto", "bfloat16", "float16")
_LONG = 10.0  # Seconds after which the callback explains why the first batch takes long.
_FIRST_STEPS = 100  # The clean accuracy may be at chance before this step.


@keras.saving.register_keras_serializable(package="keras_robust")
class AdvTrain(keras.callbacks.Callback):
    """Trains a compiled Keras model on adversarial examples, for the length of one `fit`.

    At every step, an attack perturbs the batch, and the optimizer takes one step on the objective.
    The model keeps its loss, metrics, optimizer, `save` and `export`. After `fit`, even if an
    exception or Ctrl-C ended it, the model behaves as if the callback had never been there.

    The data may be arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator. Sample
    and class weights, custom losses and `compute_loss`, gradient accumulation, mixed precision,
    `steps_per_execution`, `jit_compile=True` and `run_eagerly=True` are supported. For several
    devices, use `MirroredStrategy` with TensorFlow (without XLA and gradient accumulation, which
    Keras does not support there, and with a batch size that the number of replicas divides), or
    `keras.distribution.DataParallel` with JAX, also in several processes. A model with its own
    `train_step` is refused.

    Logs: `loss` is the objective. `accuracy` and all other compiled metrics are on clean examples.
    `adv_accuracy` is the accuracy under the training attack with the current epsilon; it is not
    the robust accuracy, which `keras_robust.evaluate` measures. For models that are not
    classifiers, such as regression, segmentation, multi-label outputs or sequences, the logs have
    `adv_loss` instead: the compiled loss of the adversarial examples without regularizers. All of
    them are measured in training mode, as in plain `fit`: BatchNorm uses the statistics of the
    batch, and Dropout is active.

    The attack uses the model in inference mode, and costs `num_steps` forward and backward passes
    per batch. With the objective `"adversarial"`, the clean metrics cost one more forward pass,
    which changes no statistics and no seeds. The first batch is slow because the step is traced.
    A later `fit` with the same callback object is not traced again if only data, epochs, warm-up
    and seed have changed; see the README.

    Args:
        threat_model: a `ThreatModel`, or `"linf"`, `"l2"`, `"l1"`. Its `epsilon` may be a schedule
            over optimizer steps. For a model with several inputs, a dict with the inputs to
            perturb, `{"image": "linf"}`, or a list by position: see `PerInput`; `Joint` has one
            budget for several inputs, and `AtLayer` perturbs embeddings. Defaults to `"linf"`:
            epsilon 8/255, inputs in [0, 1].
        attack: an `Attack` or its name. `None` means the default attack of the objective, most
            often `"pgd"`: 10 steps from a random start. Defaults to `None`.
        objective: an `Objective` or its name. Defaults to `"adversarial"`.
        clean_epochs: int, epochs of plain training before adversarial training starts. They are
            counted by `optimizer.iterations`, and the warm-up follows them. Defaults to `0`.
        warmup: the period in which epsilon grows linearly from 0: a percentage of the steps that
            `fit` plans, such as `"20%"`, or an int, a number of optimizer steps. The warm-up is
            counted by `optimizer.iterations`, so that a resumed training continues where it was,
            and a model that has trained for longer has no warm-up. `None` means `"20%"`. If the
            length of the data is not known, as with most generators, `None` means 500 steps, which
            `fit` prints, and a percentage raises an error. If `epsilon` is a schedule, `None` means
            0. Defaults to `None`.
        seed: int, seed of the random starts. Defaults to `0`.
        attack_dtype: dtype in which the float32 layers of the model compute during the attack:
            `"bfloat16"`, for CPUs with AVX512-BF16 or AMX and for GPUs; `"float16"`, for GPUs;
            `"auto"`, the dtype that is fastest on this machine, which is printed once; `None`, the
            dtype of training. Only the search is affected: `x_adv` stays in the ball in float32,
            and the training pass on it does not change. The attack finds nearly the same examples
            in less time: see `benchmarks/low_precision_attack.py`. `TRADES` is an exception: its
            attack starts 0.001 from the example, bfloat16 rounds most of this distance to zero, and
            the divergence was 9% smaller than in float32. `PGD(loss="kl")` starts anywhere in the
            ball, and its divergence was as large as in float32. Attacks that compare outputs at
            nearby points are refused. A layer that needs float32 sets `autocast=False`, as
            `InputTransformation` does. The argument has no effect on `Normalization` and
            `Rescaling`, and on models with a layer in half precision. Convolutions and wide dense
            layers become faster; on CPUs, small models and attention do not. Defaults to `None`.

    Raises:
        ValueError: in the constructor for unknown names; in `fit` for a model that cannot be
            trained, or that cannot run in `attack_dtype`, and for invalid data (NaN, inputs
            outside of the bounds, labels that are not classes); the model then keeps the weights
            from before the invalid batch.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.default_rng(0).uniform(size=(64, 4)).astype("float32")
    >>> y = (x[:, 0] > 0.5).astype("int32")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("adam", loss, metrics=["accuracy"])
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1))])
    >>> print(sorted(history.history))
    ['accuracy', 'adv_accuracy', 'loss']

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572)
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083)
    """

    def __init__(
        self,
        threat_model="linf",
        *,
        attack=None,
        objective="adversarial",
        clean_epochs=0,
        warmup=None,
        seed=0,
        attack_dtype=None,
    ):
        super().__init__()
        self.threat_model = threat_models.get(threat_model)
        self.objective = objectives.get(objective)
        if attack is None:
            attack = self.objective.default_attack
        self.attack = attacks.get_untargeted(attack)
        is_number = isinstance(clean_epochs, int) and not isinstance(clean_epochs, bool)
        if not is_number or clean_epochs < 0:
            raise ValueError(
                "Argument `clean_epochs` must be an int >= 0, a number of epochs. "
                f"Received: clean_epochs={clean_epochs!r}"
            )
        _check_attack_dtype(attack_dtype, self.attack)
        self.clean_epochs = clean_epochs
        self.warmup = warmup
        check_seed(seed)
        self.seed = seed
        self.attack_dtype = attack_dtype
        parse_warmup(warmup)
        self._warm_up = None
        self._compiled = None
        self._run = None
        self._function = None
        self._armed_for = None
        self._is_clean = False
        self._warned = set()
        self._printed = set()

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "threat_model": serialize(self.threat_model),
            "attack": serialize(self.attack),
            "objective": serialize(self.objective),
            "clean_epochs": self.clean_epochs,
            "warmup": self.warmup,
            "seed": self.seed,
            "attack_dtype": self.attack_dtype,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def set_model(self, model):
        super().set_model(model)
        # Arm after all other callbacks, because one of them may train or compile the model.
        put_last(LastCallback(self, self._arm), self, inspect.currentframe().f_back)

    def on_train_begin(self, logs=None):
        refuse_other_steps(self.model)
        backend.refuse_distribution(self.model)
        self.objective.check(self.model, self.threat_model)
        self._warned = set()
        self._armed_for = None
        self._warm_up = WarmUp(self)
        self._print_once("warm-up", self._warm_up.note())
        self._compiled = self._compiled_step()
        self._step.epsilon_warmup, self._step.seed = self._warm_up.epsilon_warmup, self.seed
        self._install()

    def on_epoch_begin(self, epoch, logs=None):
        self._is_clean = training.read_steps(self.model.optimizer) < self._epsilon_warmup[0]
        self._step.reset_meters()

    def on_train_batch_begin(self, batch, logs=None):
        self._arm()

    def on_epoch_end(self, epoch, logs=None):
        step = self._step
        # An epoch without a batch has no logs.
        if not logs:
            self._refuse_empty_data()
        if self._is_clean:
            return
        accuracy, seen = _read(step.accuracy.result()), _read(step.accuracy.count)
        steps = training.read_steps(self.model.optimizer)
        if "chance" in self._warned or not seen or steps < _FIRST_STEPS:
            return
        chance = 1.0 / step.num_classes
        # Guessing exceeds three standard deviations with a probability of about 0.1%.
        margin = max(0.02, 3.0 * (chance * (1.0 - chance) / seen) ** 0.5)
        # With few labels, the margin is too wide to distinguish chance from learning.
        if accuracy <= chance + margin <= 0.5 * (1.0 + chance):
            self._warned.add("chance")
            warnings.warn(
                "Accuracy on clean examples stayed at chance for a whole epoch: the model is not "
                "learning, and the attack may be too strong at this stage. Try a longer warm-up "
                '(warmup="40%"), a smaller epsilon, a smaller learning rate, or start from a '
                f"model trained on clean examples. Received: accuracy {accuracy:.3f} with "
                f"{step.num_classes} classes under {self.threat_model}",
                stacklevel=2,
            )

    def on_train_end(self, logs=None):
        uninstall(self.model)
        shortfall = self._warm_up.shortfall(_read(self.model.optimizer.iterations))
        if shortfall is not None:
            warnings.warn(shortfall, stacklevel=2)
        self._compiled = self._run = None
        self._function = None
        self._armed_for = None

    @property
    def _step(self):
        return self._compiled and self._compiled.step

    @property
    def _epsilon_warmup(self):
        """A pair: the number of clean steps, and the number of steps in which epsilon grows."""
        return self._step.epsilon_warmup

    @_epsilon_warmup.setter
    def _epsilon_warmup(self, epsilon_warmup):
        self._step.epsilon_warmup = tuple(epsilon_warmup)

    def _known_attack_dtype(self):
        """Returns `attack_dtype`; chooses it for "auto", and prints the choice."""
        if self.attack_dtype != "auto":
            return self.attack_dtype
        # Half precision rounds away the differences that some attacks compare.
        dtype = backend.fast_dtype() if self.attack.tolerates_rounding else None
        self._print_once("auto", f"the attack runs in {dtype or 'the dtype of the model'}.")
        return dtype

    def _print_once(self, topic, text):
        """Prints a sentence once per topic, unless `fit` is silent."""
        if text is not None and topic not in self._printed and self.params.get("verbose"):
            self._printed.add(topic)
            print(f"AdvTrain: {text}")  # noqa: T201

    def _refuse_empty_data(self):
        uninstall(self.model)
        raise ValueError("AdvTrain needs data to train on. Received: an empty data set")

    def _compiled_step(self):
        """Returns the compiled step of an earlier `fit` if it is still valid, or else a new one."""
        model, dtype = self.model, self._known_attack_dtype()
        uninstall(model)
        arguments = (model, self.attack, self.objective, self.threat_model)
        return kept_step(self, model, dtype) or CompiledStep(
            TrainStep(*arguments, seed=self.seed, attack_dtype=dtype)
        )

    def _arm(self):
        """Makes the next batch of this `fit` use the adversarial train step."""
        if self._is_clean:
            return
        # On JAX, reading `self.model` copies the weights back into the variables, at every batch.
        model = self._step.model
        if model.train_function is not self._function:
            # Another callback has trained, compiled or unfrozen the model, so Keras has replaced
            # the adversarial function.
            self._install()
        self._armed_for = current_fit(model)

    def _install(self):
        """Installs a train function that is adversarial for this `fit` only.

        If another callback raises an exception, nothing removes the function from the model. It
        therefore holds only weak references, and runs the plain step once the callback is gone.
        """
        model, self_reference = self._step.model, weakref.ref(self)
        model_reference, check = weakref.ref(model), weakref.WeakMethod(self._check_first_batch)
        uninstall(model)
        self._compiled.prepare()
        self._run = self._step.wrap_train_function(self._compiled.run, lambda: check()())

        def train_function(*arguments):
            # On JAX, the arguments are the state of the variables and the data.
            own = self_reference()
            if own is None or not own._disarm(arguments[-1]):
                return uninstall(model_reference())(*arguments)
            return own._train(*arguments)

        install(model, train_function)
        self._function = train_function

    def _disarm(self, iterator):
        """Returns whether the next batch uses the adversarial train step, and disarms it."""
        # An exception in a callback may have left the step armed for another `fit`.
        armed, self._armed_for = self._armed_for, None
        is_ours = armed is not None and armed is current_fit(self._step.model)
        return is_ours and not is_of_one_batch(iterator)

    def _train(self, *arguments):
        """Runs the adversarial train step on a batch."""
        step, original = self._step, self._function.replaced
        try:
            with self._message_about_compiling():
                step.build(arguments[-1])
                logs = step.aggregate_logs(self._run(*arguments))
        # An iterator raises this exception at the end of an epoch. It is not an error.
        except backend.END_OF_DATA:
            raise
        except BaseException as error:  # Ctrl-C must restore the plain train function, too.
            uninstall(step.model)
            forget_step(self, original)
            message = backend.required_message(error)
            if message is None:
                raise
            raise ValueError(message) from None
        self._compiled.keep(self, original)
        return logs

    def _message_about_compiling(self):
        """Returns a context that prints a message if the first batch takes long to compile."""
        compiles = self._compiled.is_new and self._step.model.steps_per_execution == 1
        if not compiles or self._step.model.run_eagerly or not self.params.get("verbose"):
            return contextlib.nullcontext()
        return print_after(
            _LONG,
            "AdvTrain: compiling the train step with the attack, once. This may take a few times "
            "as long as for plain training.",
        )

    def _check_first_batch(self):
        """Raises ValueError if the loss mistakes logits for probabilities or vice versa.

        Warns of an attack without a gradient, and of a radius or a step in wrong units.
        """
        if "gradients" in self._warned:
            return
        self._warned.add("gradients")
        if _read(self._step.logits_mismatch.result()) > 0.0:
            uninstall(self.model)
            raise ValueError(
                "The loss takes logits and the outputs of the model are probabilities, or vice "
                "versa. Set `from_logits` of the loss to match the last layer of the model. "
                f"Received: loss={self.model.loss!r}"
            )
        step = self._step
        zero_gradient, share = (
            _read(step.zero_gradient.result()),
            _read(step.share_of_range.result()),
        )
        warn_of_first_batch(zero_gradient, step.attacked_inputs, share, stacklevel=3)
        small_steps = step_size_complaint(self.attack, self.threat_model)
        if small_steps:
            warnings.warn(small_steps, stacklevel=2)


def _check_attack_dtype(dtype, attack):
    if not isinstance(dtype, (str, type(None))) or dtype not in _ATTACK_DTYPES:
        raise ValueError(
            f"Argument `attack_dtype` must be one of {_ATTACK_DTYPES}. "
            f"Received: attack_dtype={dtype!r}"
        )
    if dtype not in (None, "auto") and not attack.tolerates_rounding:
        raise ValueError(
            "This attack may compare the outputs of the model at nearby points, whose difference "
            "half precision rounds to 0. Use attack_dtype=None, an attack such as PGD, or set "
            "`tolerates_rounding = True` in the class if the attack makes no such comparison. "
            f"Received: attack_dtype={dtype!r} and attack={attack!r}"
        )


def _read(value):
    """Returns a Python float from a scalar variable or tensor."""
    return float(keras.ops.convert_to_tensor(value) + 0)
