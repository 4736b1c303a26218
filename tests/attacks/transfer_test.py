import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import black_box
from tests.support import linear_fit
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import small_models
from tests.support import tiers

Transfer = kr.attacks.Transfer
SEED = np.array([3, 4], "int32")


def other_model(bias=0.0):
    """Returns a linear surrogate of the reference network, which misclassifies some examples."""
    head = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), head])
    kernel = numpy_reference.HIDDEN[0] @ numpy_reference.HEAD[0]
    head.set_weights([kernel, numpy_reference.HEAD[1] + bias * np.array([1.0, 0.0, -1.0])])
    return model


def by_itself(attack, surrogate, x, y, ball):
    """Returns the result of the attack on the surrogate alone."""
    return np.asarray(search(attack, surrogate, x, y, ball, keep_best=False).x_adv)


def search(attack, model, x, y, ball, keep_best=True):
    classifier, x = models.Classifier(model), keras.ops.convert_to_tensor(x)
    return attack.search(kr.attacks.SearchProblem(classifier, x, y, ball, SEED, keep_best))


def margins(x, y):
    z = numpy_reference.logits(np.asarray(x, "float64"))
    return np.where(np.eye(3)[y] > 0, -np.inf, z).max(-1) - z[np.arange(len(y)), y]


@tiers.parametrize("bias", [0.0, 3.0])
def test_evaluates_the_points_of_the_surrogate_on_the_model(bias):
    x, y = numpy_reference.examples(20)
    surrogate, ball, attack = other_model(bias), kr.Linf(0.1), kr.attacks.PGD(num_steps=4)
    wrong = surrogate.predict(x, verbose=0).argmax(-1) != y
    assert 0 < wrong.sum() < 20
    points = by_itself(attack, surrogate, x, y, ball)
    found = search(Transfer(surrogate, attack), numpy_reference.keras_model(), x, y, ball)
    before, after = margins(x, y), margins(points, y)
    # There is a point even where the surrogate is wrong from the start.
    assert np.abs(points - x).max(-1).min() > 0.05 and 0 < (after < before).sum() < 20
    expected = np.where((after > before)[:, None], points, x)
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.loss, np.maximum(before, after), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.success, np.maximum(before, after) > 0)


def test_training_returns_the_points_of_the_surrogate():
    x, y = numpy_reference.examples()
    surrogate, ball = other_model(3.0), kr.L2(0.3)
    points = by_itself(kr.attacks.FGSM(), surrogate, x, y, ball)
    found = search(Transfer(surrogate, "fgsm"), numpy_reference.keras_model(), x, y, ball, False)
    np.testing.assert_array_equal(found.x_adv, points)


@pytest.mark.exhaustive
def test_without_labels_the_attacked_model_predicts_them():
    x, _ = numpy_reference.examples(12)
    model, surrogate, ball = numpy_reference.keras_model(), other_model(3.0), kr.L2(0.4)
    attack = Transfer(surrogate, "bim")
    given = numpy_reference.logits(x).argmax(-1)
    assert (given != surrogate.predict(x, verbose=0).argmax(-1)).any()
    expected = attack(model, x, given, ball)
    np.testing.assert_allclose(attack(model, x, None, ball), expected, rtol=0, atol=1e-6)


@pytest.mark.exhaustive
def test_leaves_only_misclassified_examples_unchanged():
    x, y = numpy_reference.examples()
    y = np.where(np.arange(5) == 2, (y + 1) % 3, y)
    found = Transfer(other_model(), "bim").run(
        numpy_reference.keras_model(), x, y, kr.L2(0.4), batch_size=2
    )
    assert found.success[2]
    np.testing.assert_array_equal(np.abs(found.x_adv - x).max(-1) > 0, np.arange(5) != 2)


@pytest.mark.exhaustive
def test_every_restart_is_evaluated_on_the_model():
    x, y = numpy_reference.examples(16)
    model, surrogate = numpy_reference.keras_model(), other_model(1.0)
    losses = []
    for count in (1, 2, 6):
        attack = Transfer(
            surrogate, kr.attacks.PGD(num_steps=1, step_size=0.01, num_restarts=count)
        )
        assert attack.num_restarts == count
        losses.append(attack.run(model, x, y, kr.Linf(0.05)).loss)
    assert np.all(np.diff(losses, axis=0) >= 0) and np.all(losses[-1].sum() > losses[0].sum() + 0.1)


@pytest.mark.exhaustive
def test_a_targeted_attack_is_judged_by_its_target():
    x, y = numpy_reference.examples(12)
    target = np.argsort(numpy_reference.logits(x), axis=-1)[:, 1]
    attack = Transfer(other_model(), kr.attacks.PGD(targeted=True))
    assert attack.targeted is True
    found = attack.run(numpy_reference.keras_model(), x, target, kr.Linf(0.3))
    reached = numpy_reference.logits(found.x_adv).argmax(-1) == target
    np.testing.assert_array_equal(found.success, reached)
    assert reached.any()
    with pytest.raises(ValueError, match="A targeted attack needs target labels"):
        attack(numpy_reference.keras_model(), x, None, kr.Linf(0.3))


@pytest.mark.exhaustive
def test_breaks_a_model_without_gradients_and_counts_its_queries_alone():
    x, y = linear_model.examples()
    model = black_box.BlackBox(black_box.linear)
    attack = Transfer(linear_model.keras_model(), kr.attacks.BIM(num_steps=4, step_size=0.2))
    found = attack.run(model, x, y, kr.Linf(0.15), batch_size=3)
    best = linear_model.best(x, y, "Linf", 0.15, (0.0, 1.0))
    np.testing.assert_allclose(found.x_adv, best, rtol=0, atol=1e-6)
    assert found.queries.tolist() == [4] * len(x)
    # XLA merges the three queries at the clean example into one call.
    assert model.asked == (2 if backends.IS_JAX else 4) * len(x)


@pytest.mark.exhaustive
def test_zero_gradients_of_the_surrogate_are_reported():
    x, y = numpy_reference.examples()
    surrogate = other_model()
    surrogate.set_weights([0.0 * weight for weight in surrogate.get_weights()])
    model, ball = numpy_reference.keras_model(), kr.Linf(0.1)
    assert Transfer(surrogate, "bim").run(model, x, y, ball).zero_gradient.all()
    assert not Transfer(other_model(), "bim").run(model, x, y, ball).zero_gradient.any()


@pytest.mark.exhaustive
def test_does_not_change_the_surrogate():
    surrogate = small_models.convolution()
    x, y = small_models.images(surrogate)
    before = [np.copy(value) for value in surrogate.get_weights()]
    model = small_models.convolution()
    model.set_weights([1.1 * value for value in model.get_weights()])
    first, again = (Transfer(surrogate)(model, x, y, kr.Linf(0.05)) for _ in range(2))
    # Dropout in training mode would lead to other points.
    np.testing.assert_array_equal(first, again)
    for weight, value in zip(surrogate.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.exhaustive
def test_uses_the_current_weights_of_the_surrogate():
    x, y = numpy_reference.examples()
    model, surrogate, ball = numpy_reference.keras_model(), other_model(), kr.L2(0.3)
    attack = Transfer(surrogate, "bim")
    first = attack(model, x, y, ball)
    surrogate.set_weights([-weight for weight in surrogate.get_weights()])
    assert np.abs(attack(model, x, y, ball) - first).max() > 0.01


@pytest.mark.exhaustive
def test_several_inputs_go_to_both_models():
    def make(scale):
        left, right = keras.Input((3,), name="a"), keras.Input((2,), name="b")
        joined = keras.layers.Concatenate()([left, right])
        head = keras.layers.Dense(2)
        model = keras.Model({"a": left, "b": right}, head(joined))
        kernel = np.random.default_rng(2).normal(size=(5, 2))
        head.set_weights([scale * kernel, np.zeros(2)])
        return model

    rng = np.random.default_rng(3)
    x = {"a": rng.uniform(size=(6, 3)), "b": rng.uniform(size=(6, 2))}
    x = {name: value.astype("float32") for name, value in x.items()}
    model, ball = make(1.0), kr.threat_models.PerInput({"a": kr.Linf(0.1), "b": kr.Linf(0.02)})
    y = model.predict(x, verbose=0).argmax(-1)
    moved = Transfer(make(2.0), "bim")(model, x, y, ball)
    expected = kr.attacks.BIM()(model, x, y, ball)
    for name in x:
        np.testing.assert_allclose(moved[name], expected[name], rtol=0, atol=1e-6)
        assert np.abs(moved[name] - x[name]).max() > 0.01


@pytest.mark.exhaustive
def test_the_config_holds_the_architecture_and_the_attack():
    surrogate = other_model()
    attack = Transfer(surrogate, kr.attacks.PGD(num_steps=3))
    text = json.dumps(keras.saving.serialize_keras_object(attack))
    revived = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(revived) is Transfer and revived.attack.num_steps == 3
    assert revived.surrogate.input_shape == surrogate.input_shape
    x, y = numpy_reference.examples()
    arguments = (numpy_reference.keras_model(), x, y, kr.Linf(0.1))
    with pytest.warns(UserWarning, match="A config holds the architecture of the surrogate"):
        revived(*arguments)
    trained = revived.clone(surrogate=surrogate)
    np.testing.assert_array_equal(trained(*arguments), attack(*arguments))


def test_a_surrogate_made_from_a_config_is_named_in_a_warning():
    surrogate = other_model()
    config = keras.saving.serialize_keras_object(Transfer(surrogate, "fgsm"))
    revived = keras.saving.deserialize_keras_object(config)
    x, y = numpy_reference.examples()
    with pytest.warns(UserWarning, match="A config holds") as warned:
        search(revived, numpy_reference.keras_model(), x, y, kr.Linf(0.1))
    assert [str(warning.message) for warning in warned] == [
        "A config holds the architecture of the surrogate but not its weights, which are random "
        "unless they were loaded since. Load them, or use `attack.clone(surrogate=...)` with a "
        f"trained model. Received: the surrogate {surrogate.name!r}, made from a config"
    ]


def test_is_known_by_name_and_takes_names():
    assert type(Transfer(other_model()).attack) is kr.attacks.PGD
    with pytest.raises(ValueError, match=r"needs arguments.*Transfer\(surrogate=...\)"):
        kr.attacks.get("transfer")
    with pytest.raises(ValueError, match="Unknown attack"):
        Transfer(other_model(), "best")
    assert not Transfer(other_model(), "nfgsm").stays_in_ball
    assert Transfer(other_model(), "pgd").stays_in_ball


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_makes_the_examples_of_ensemble_adversarial_training(jit_compile):
    x, y = linear_fit.data(8)
    surrogate = linear_fit.make_model()
    surrogate.set_weights([-0.5 * linear_fit.initial_weights()])
    model = linear_fit.make_model(jit_compile=jit_compile)
    before = linear_fit.initial_weights()
    x_adv = by_itself(kr.attacks.FGSM(), surrogate, x, y, kr.Linf(0.1))
    robust = linear_fit.adv_train(attack=Transfer(surrogate, "fgsm"), objective="mixed")
    linear_fit.fit(model, robust, x, y)
    gradient = 0.0
    for inputs in (x, x_adv):
        error = linear_fit.softmax(inputs @ before) - np.eye(linear_fit.NUM_CLASSES)[y]
        gradient = gradient + 0.5 * inputs.T @ error / len(x)
    expected = before - linear_fit.LEARNING_RATE * gradient
    np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=0, atol=1e-5)


def test_wrong_surrogates():
    x, y = numpy_reference.examples()
    with pytest.raises(ValueError, match="`surrogate` must be a keras.Model.*Received: surrogate="):
        Transfer(lambda x: x)
    with pytest.raises(ValueError, match="The surrogate has no weights yet.*is not built"):
        Transfer(keras.Sequential([keras.layers.Dense(3)]))
    two = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), keras.layers.Dense(2)])
    with refusals.assert_refused("a surrogate with 2 and a model with 3 classes"):
        Transfer(two)(numpy_reference.keras_model(), x, y, kr.Linf(0.1))
    model = numpy_reference.keras_model()
    ball = kr.threat_models.AtLayer(model.layers[0].name, kr.L2(0.1, bounds=None))
    with pytest.raises(ValueError, match="at a layer of one model has no meaning for another"):
        Transfer(other_model())(model, x, y, ball)
