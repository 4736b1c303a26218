"""`AdvTrain(attack_dtype=...)` changes the dtype of the search, and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import devices
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

EPSILON = 0.1
X = np.random.default_rng(5).uniform(size=(16, 6, 6, 1)).astype("float32")
Y = np.random.default_rng(6).integers(0, 3, size=16)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Probe(keras.layers.Layer):
    """Keeps, for every pass, whether it is one of training and the dtype of what comes in."""

    def __init__(self):
        super().__init__()
        self.passes = set()

    def call(self, x, training=None):
        self.passes.add((bool(training), x.dtype.name))
        return x


class Recorded(kr.attacks.PGD):
    """Keeps the examples that it found; with `given`, hands out those instead."""

    def __init__(self, given=None, found=None, loss=None, random_start=True):
        super().__init__(num_steps=3, loss=loss, random_start=random_start)
        self.given, self.found = given, [] if found is None else found

    def perturb(self, classifier, x, y, threat_model, seed):
        if self.given is None:
            found = super().perturb(classifier, x, y, threat_model, seed)
        else:
            x_adv = keras.ops.convert_to_tensor(self.given[len(self.found)])
            found = kr.attacks.AttackResult.unattacked(x_adv)
        self.found.append(np.array(found.x_adv))
        return found


def _model(probe=None, policy=None, **arguments):
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu", dtype=policy),
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Dropout(0.3, seed=1, dtype=policy),
        keras.layers.Flatten(dtype=policy),
        *([probe] if probe else []),
        keras.layers.Dense(3, dtype=policy, kernel_regularizer=keras.regularizers.L2(0.01)),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, metrics=["accuracy"], **arguments)
    return model


def _callback(attack=None, attack_dtype="bfloat16", **arguments):
    attack = attack or kr.attacks.PGD(num_steps=2)
    ball = kr.Linf(EPSILON)
    return kr.AdvTrain(ball, attack=attack, warmup=0, attack_dtype=attack_dtype, **arguments)


def _fit(model, callback, **arguments):
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(X, Y, callbacks=[callback], **arguments)


@pytest.mark.exhaustive
@tiers.parametrize("dtype", ["bfloat16", "float16"])
@tiers.parametrize(
    "mode",
    [
        pytest.param({}, id="graph"),
        pytest.param({"run_eagerly": True}, id="eager"),
        pytest.param({"jit_compile": True}, id="XLA"),
        pytest.param({"steps_per_execution": 2}, id="steps_per_execution"),
    ],
)
def test_only_the_search_runs_in_it(mode, dtype):
    probe = Probe()
    model = _model(probe, **mode)
    policies = [layer._dtype_policy for layer in model.layers]
    probe.passes.clear()
    logs = _fit(model, _callback(attack_dtype=dtype)).history
    assert probe.passes == {(False, dtype), (True, "float32"), (False, "float32")}
    assert all(new is old for new, old in zip(_policies(model), policies, strict=True))
    assert np.isfinite(logs["loss"]).all()
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


@pytest.mark.exhaustive
def test_without_it_everything_is_float32():
    probe = Probe()
    model = _model(probe)
    probe.passes.clear()
    _fit(model, _callback(attack_dtype=None))
    assert probe.passes == {(False, "float32"), (True, "float32")}


@pytest.mark.exhaustive
def test_on_two_devices_with_a_model_that_is_not_built():
    with devices.mirrored(2).scope():
        probe = Probe()
        layers = [keras.layers.Flatten(), keras.layers.Dropout(0.5), probe, keras.layers.Dense(3)]
        model = keras.Sequential(layers)
        model.compile("sgd", LOSS)
    _fit(model, _callback())
    assert probe.passes >= {(False, "bfloat16"), (True, "float32")}
    assert {policy.compute_dtype for policy in _policies(model)} == {"float32"}
    assert {type(policy) for policy in _policies(model)} == {keras.DTypePolicy}


@tiers.parametrize("objective", ["adversarial", "trades", "mixed"])
def test_the_training_pass_is_bit_for_bit_the_one_without_it(objective):
    low = Recorded()
    model = _model(run_eagerly=True)
    logs = _fit(model, _callback(low, objective=objective), epochs=2).history
    assert len(low.found) == 4
    other = _model(run_eagerly=True)
    again = Recorded(given=low.found)
    expected = _fit(other, _callback(again, None, objective=objective), epochs=2).history
    for weight, same in zip(model.variables, other.variables, strict=True):
        assert weight.dtype == same.dtype
        np.testing.assert_array_equal(weight, same)
    for weight, same in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(weight, same)
    assert logs == expected


@pytest.mark.exhaustive
def test_what_it_finds_is_in_the_ball_in_float32():
    low, own = Recorded(), Recorded()
    _fit(_model(run_eagerly=True), _callback(low))
    _fit(_model(run_eagerly=True), _callback(own, None))
    for start, x_adv, other in zip((0, 8), low.found, own.found, strict=True):
        x = X[start : start + 8]
        radius = np.float32(EPSILON)
        assert x_adv.dtype == np.float32
        assert (x_adv >= np.maximum(x - radius, 0)).all()
        assert (x_adv <= np.minimum(x + radius, 1)).all()
        # What had been rounded to bfloat16 would have its last 16 bits empty.
        assert (x_adv.view("uint32") & 0xFFFF).astype(bool).mean() > 0.9
        # Of three signs few differ; with another start all points would.
        assert (x_adv == other).mean() > 0.7


@pytest.mark.exhaustive
@tiers.parametrize("dtype", ["bfloat16", "float16"])
def test_it_finds_what_it_finds_in_a_model_with_mixed_policies(dtype):
    model, mixed = _model(), _model(policy=f"mixed_{dtype}")
    low = models.Classifier(model).with_attack_dtype(dtype)
    arguments = X, Y, kr.L2(0.5), [1, 2]
    x_adv, expected, own = (
        kr.attacks.PGD(num_steps=4).perturb(c, *map(_tensor, arguments)).x_adv
        for c in (low, models.Classifier(mixed), models.Classifier(model))
    )
    np.testing.assert_array_equal(x_adv, expected)
    assert np.abs(x_adv - own).max() > 1e-5
    np.testing.assert_allclose(x_adv, own, atol=0.02)


@pytest.mark.exhaustive
@tiers.parametrize("objective", ["kurakin", "mma", "grad_align", kr.objectives.AWP(), "mart"])
def test_other_objectives_search_in_it(objective):
    probe, attack = Probe(), kr.objectives.get(objective).default_attack
    model = _model(probe)
    before = model.get_weights()
    probe.passes.clear()
    _fit(model, _callback(attack, objective=objective))
    assert probe.passes >= {(False, "bfloat16"), (True, "float32")}
    assert (True, "bfloat16") not in probe.passes
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert np.abs(model.get_weights()[0] - before[0]).max() > 0.0


@pytest.mark.exhaustive
def test_at_a_layer_behind_integers():
    probe = Probe()
    layers = [keras.layers.Embedding(50, 4, name="embedding"), keras.layers.Flatten(), probe]
    model = keras.Sequential([keras.Input((3,), dtype="int32"), *layers, keras.layers.Dense(2)])
    model.compile("sgd", LOSS)
    tokens, y = np.arange(48).reshape(16, 3), np.arange(16) % 2
    ball = kr.threat_models.AtLayer("embedding", kr.L2(0.5, bounds=None))
    callback = kr.AdvTrain(ball, attack="pgd", attack_dtype="bfloat16", warmup=0)
    probe.passes.clear()
    before = model.layers[0].get_weights()[0].copy()
    model.fit(tokens, y, callbacks=[callback], verbose=0)
    assert probe.passes >= {(False, "bfloat16"), (True, "float32")}
    assert np.abs(model.layers[0].get_weights()[0] - before).max() > 0.0


class Fixed(keras.layers.Layer):
    """Would fail in any dtype but float32, and where it `is_broken`, in that too."""

    is_broken = False

    def call(self, x):
        if self.is_broken or keras.backend.standardize_dtype(x.dtype) != "float32":
            raise TypeError("no such product")
        return x


@pytest.mark.exhaustive
@pytest.mark.parametrize("eager", [True, False])
def test_a_layer_that_fixes_its_dtype_is_named_with_the_way_out(eager):
    model = _model(Fixed(), run_eagerly=eager)
    weights, policies = model.get_weights(), _policies(model)
    with pytest.raises(ValueError, match=r"(?s)cannot run in bfloat16.*autocast=False.*product"):
        _fit(model, _callback())
    assert all(new is old for new, old in zip(_policies(model), policies, strict=True))
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    _fit(model, _callback(attack_dtype=None))


@pytest.mark.exhaustive
def test_a_layer_that_fixes_its_dtype_and_says_so_works():
    class Kept(Fixed):
        def __init__(self):
            super().__init__(autocast=False)

        def call(self, x):
            return super().call(keras.ops.cast(x, "float32"))

    model = _model(Kept())
    before = model.get_weights()[0]
    _fit(model, _callback())
    assert np.abs(model.get_weights()[0] - before).max() > 0.0


def test_other_errors_stay_what_they_are():
    layer = Fixed()
    model = _model(layer, run_eagerly=True)
    layer.is_broken = True
    # Keras asks the layer for its shapes before any attack runs.
    with pytest.raises((ValueError, RuntimeError), match="no such product"):
        _fit(model, _callback())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no memory left for bfloat16"),
        ValueError("odd"),
        KeyError("x"),
        KeyboardInterrupt(),
    ],
)
def test_an_error_of_the_attack_is_raised_unchanged_and_the_attack_runs_once(error):
    class Broken(kr.attacks.FGSM):
        calls = 0

        def search(self, *arguments, **options):
            type(self).calls += 1
            raise error

    model, attack = _model(), Broken()
    policies = _policies(model)
    classifier = models.Classifier(model).with_attack_dtype("bfloat16")
    with pytest.raises(type(error)) as caught:
        attack.perturb(classifier, *map(_tensor, (X, Y, kr.Linf(0.1), [1, 2])))
    assert caught.value is error and attack.calls == 1
    assert all(new is old for new, old in zip(_policies(model), policies, strict=True))


def test_a_fault_of_a_layer_in_every_dtype_is_not_explained_by_the_dtype():
    layer = Fixed()
    model = _model(layer)
    classifier = models.Classifier(model).with_attack_dtype("bfloat16")
    attack, arguments = kr.attacks.FGSM(), [*map(_tensor, (X, Y)), kr.Linf(0.1), _tensor([1, 2])]
    with pytest.raises(ValueError, match="^The model cannot run in bfloat16: .*no such product"):
        attack.perturb(classifier, *arguments)
    layer.is_broken = True
    with pytest.raises(ValueError, match="^The model cannot run on these inputs: no such product"):
        attack.perturb(classifier, *arguments)


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_in_mixed_precision_trains_as_without_it(policy):
    model, other = _model(policy=policy), _model(policy=policy)
    _fit(model, _callback())
    _fit(other, _callback(attack_dtype=None))
    for weight, same in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)


@pytest.mark.exhaustive
def test_nothing_stays_behind():
    model = _model()
    _fit(model, _callback())
    twin = _model()
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(X, verbose=0), twin.predict(X, verbose=0))
    report = kr.evaluate(model, (X, Y), kr.Linf(EPSILON), attacks=["pgd"])
    assert (
        report.robust_accuracy
        == kr.evaluate(twin, (X, Y), kr.Linf(EPSILON), attacks=["pgd"]).robust_accuracy
    )
    assert "attack_dtype" not in str(model.get_config())


def _tensor(value):
    if isinstance(value, kr.threat_models.ThreatModel):
        return value
    return keras.ops.convert_to_tensor(value)


def _policies(model):
    return [layer._dtype_policy for layer in model.layers]


@pytest.mark.parametrize("wrong", ["float32", "int8", "half", 16, True, ["bfloat16"]])
def test_names_of_attack_dtypes(wrong):
    refusals.assert_argument_refused(
        kr.AdvTrain, r"`attack_dtype` must be one of .*'auto'.*Received: ", attack_dtype=wrong
    )


@pytest.mark.parametrize("attack", ["virtualadversarial", "lbfgs", "spsa"])
def test_attacks_that_compare_near_points_are_refused_half_precision(attack):
    with pytest.raises(ValueError, match=r"nearby points.*tolerates_rounding.*'float16'"):
        kr.AdvTrain(attack=attack, attack_dtype="float16")
    kr.AdvTrain(attack=attack, attack_dtype="auto")


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_auto_is_what_the_machine_gains_from_and_is_told_once(dtype, monkeypatch, capsys):
    monkeypatch.setattr(kr.backend, "fast_dtype", lambda: dtype)
    seen = []

    class Watched(kr.attacks.FGSM):
        def perturb(self, classifier, *arguments):
            seen.append(classifier.attack_dtype)
            return super().perturb(classifier, *arguments)

    callback = linear_fit.adv_train(attack=Watched(), attack_dtype="auto")
    linear_fit.fit(linear_fit.make_model(), callback)
    assert "attack" not in capsys.readouterr().out
    for told in (1, 0):
        linear_fit.fit(linear_fit.make_model(), callback, verbose=2)
        expected = f"AdvTrain: the attack runs in {dtype or 'the dtype of the model'}.\n"
        assert capsys.readouterr().out.count(expected) == told
    # Some backends trace a step more than once.
    assert len(seen) >= 3 and set(seen) == {dtype}
    assert callback.get_config()["attack_dtype"] == "auto"


@pytest.mark.exhaustive
def test_auto_leaves_attacks_that_compare_near_points_alone(monkeypatch):
    monkeypatch.setattr(kr.backend, "fast_dtype", lambda: "bfloat16")
    callback = linear_fit.adv_train(
        attack="virtualadversarial", objective="vat", attack_dtype="auto"
    )
    seen = []
    monkeypatch.setattr(
        type(callback.attack),
        "perturb",
        lambda attack, classifier, x, *_: (
            seen.append(classifier.attack_dtype) or kr.attacks.AttackResult.unattacked(x)
        ),
    )
    linear_fit.fit(linear_fit.make_model(), callback)
    assert set(seen) == {None}


@backends.tensorflow_only("gradients at images are not shortened elsewhere")
def test_under_attack_layers_are_lowered_and_gradients_at_images_shortened():
    layers = [keras.layers.Conv2D(3, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    x = tf.constant(np.random.default_rng(0).uniform(size=(2, 5, 5, 1)).astype("float32"))
    plain = models.Classifier(model)
    classifier = plain.with_attack_dtype("float16")
    assert (plain.attack_dtype, classifier.attack_dtype) == (None, "float16")
    for one, dtype in ((classifier, "float16"), (plain, "float32")):
        with one.attack_scope(x):
            assert "convolution_op" in vars(layers[0])
            assert one.computes_in_float16 == (dtype == "float16")
            assert one(x).dtype.name == dtype
    assert "convolution_op" not in vars(layers[0])
    assert layers[0].compute_dtype == "float32"
