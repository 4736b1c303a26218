"""What every attack keeps to, in every norm."""

import functools

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import cases
from tests.support import numpy_reference
from tests.support import small_models
from tests.support import tiers

PAIRS = [(attack, ball) for attack in cases.ATTACKS for ball in cases.balls_of(attack)]
PAIRS += [("PGD", "Linf-channels")]


def one_of_each(attack, ball=None):
    """One case of every class is enough in the default tier."""
    return cases.class_of(attack)


every_pair = tiers.parametrize(("attack", "ball"), PAIRS, one_for=one_of_each)
every_attack = tiers.parametrize("attack", cases.ATTACKS, one_for=one_of_each)
# In the default tier a way to call an attack is tried with every kind of search.
called_so = tiers.parametrize("attack", cases.ATTACKS, one_for=cases.kind_of)
# What maximises a loss inside the ball, by its gradient.
ascents = tiers.parametrize(
    ("attack", "ball"),
    [pair for pair in PAIRS if cases.kind_of(pair[0]) == "ascent"],
    one_for=one_of_each,
)


@functools.cache
def setup():
    model = small_models.convolution()
    return (model, *small_models.images(model))


# The tests of one class follow each other on one worker. What was compiled for it goes with it.
@functools.lru_cache(maxsize=2)
def search_of(attack):
    return cases.ATTACKS[attack].clone()


def run(attack, ball, **arguments):
    model, x, y = setup()
    return search_of(attack).run(model, x, y, cases.THREAT_MODELS[ball], **arguments)


@functools.lru_cache(maxsize=8)
def found(attack, ball):
    return run(attack, ball, seed=1)


L2 = kr.threat_models.L2(0.2)


def a_ball(attack):
    return cases.THREAT_MODELS[cases.balls_of(attack)[0]]


def size(delta, threat_model):
    order = {"L0": 0, "L1": 1, "L2": 2, "Linf": np.inf}[type(threat_model).__name__]
    delta = delta.astype("float64")
    if order == np.inf:
        delta = delta / np.asarray(threat_model.epsilon)
        return np.abs(delta).reshape(len(delta), -1).max(-1) * np.max(threat_model.epsilon)
    return np.linalg.norm(delta.reshape(len(delta), -1), ord=order, axis=-1)


def reach(attack, threat_model):
    """How far from the example an attack may go."""
    search = cases.ATTACKS[attack]
    return np.max(threat_model.epsilon) * (1.0 if search.stays_in_ball else search.noise + 1.0)


def own_loss(attack, y, logits):
    """What the attack maximises inside the ball, per example."""
    if attack == "VirtualAdversarial":
        model, x, _ = setup()
        clean = model.predict(x[: len(logits)], verbose=0)
        return np.asarray(kr.losses.kl_divergence(clean, logits))
    loss = getattr(cases.ATTACKS[attack], "loss", None) or "cross_entropy"
    return np.asarray(kr.losses.FUNCTIONS[loss](y, logits))


@every_pair
def test_stays_in_ball_and_box(attack, ball):
    threat_model, x_adv = cases.THREAT_MODELS[ball], found(attack, ball).x_adv
    low, high = threat_model.bounds
    assert size(x_adv - setup()[1], threat_model).max() <= reach(attack, threat_model) + 1e-6
    assert np.all(x_adv >= np.float32(low)) and np.all(x_adv <= np.float32(high))


@every_pair
def test_reports_what_the_model_says(attack, ball):
    model, x, y = setup()
    result = found(attack, ball)
    logits = model.predict(result.x_adv, verbose=0)
    np.testing.assert_array_equal(result.success, logits.argmax(-1) != y)
    assert not result.zero_gradient.any()
    if cases.kind_of(attack) == "nearest":
        # The distance of the nearest mistake, which lies in the ball if there was success.
        threat_model = cases.THREAT_MODELS[ball]
        inside = result.success & (-result.loss <= np.max(threat_model.epsilon))
        distance = size(result.x_adv - setup()[1], threat_model)
        np.testing.assert_allclose(-result.loss[inside], distance[inside], rtol=0, atol=1e-5)
        assert inside[-2:].all() and np.all(result.loss[-2:] == 0.0)
        assert np.all(-result.loss[~result.success] > np.max(threat_model.epsilon))
    elif cases.kind_of(attack) == "ascent":
        np.testing.assert_allclose(result.loss, own_loss(attack, y, logits), rtol=0, atol=1e-5)


@every_pair
def test_counts_the_queries(attack, ball):
    queries = found(attack, ball).queries
    assert queries.dtype == "int32" and np.all(queries > 0)


@ascents
def test_never_lowers_the_loss_and_moves_every_example(attack, ball):
    model, x, y = setup()
    before = own_loss(attack, y, model.predict(x, verbose=0))
    assert np.all(found(attack, ball).loss[:-2] > before[:-2] + 1e-3)


@every_pair
def test_leaves_clean_mistakes_alone(attack, ball):
    _, x, _ = setup()
    result = found(attack, ball)
    np.testing.assert_array_equal(result.x_adv[-2:], x[-2:])
    assert result.success[-2:].all()


@every_pair
def test_does_not_depend_on_the_batch_size(attack, ball):
    # Nine examples in batches of four: the last batch is filled up. A sum in another order can
    # differ in the last bit, which three steps multiply.
    np.testing.assert_allclose(
        run(attack, ball, seed=1, batch_size=4).x_adv, found(attack, ball).x_adv, rtol=0, atol=1e-5
    )


@every_pair
def test_epsilon_zero_returns_the_input(attack, ball):
    model, x, y = setup()
    threat_model = cases.THREAT_MODELS[ball]
    nothing = threat_model.with_epsilon(0.0 * np.asarray(threat_model.epsilon, "float32"))
    # On JAX, XLA does not round what it fuses, and the size of a change is off by a last bit.
    atol = 5e-7 if backends.IS_JAX else 0
    np.testing.assert_allclose(search_of(attack)(model, x, y, nothing), x, rtol=0, atol=atol)


@every_pair
def test_random_numbers_come_from_the_seed(attack, ball):
    first = found(attack, ball)
    np.testing.assert_array_equal(run(attack, ball, seed=1).x_adv, first.x_adv)
    other = run(attack, ball, seed=2).x_adv
    differs = np.abs(other - first.x_adv).max() > 1e-4
    if ball == "Linf" and attack.startswith("APGD"):
        return  # Every start ends in the same corner.
    assert differs == (attack in cases.RANDOM_ATTACKS)


@every_attack
def test_leaves_the_model_alone(attack):
    model, _, _ = setup()
    before = [np.copy(value) for value in model.get_weights()]
    flags = [layer.trainable for layer in model.layers]
    run(attack, cases.balls_of(attack)[0], seed=3)
    assert [layer.trainable for layer in model.layers] == flags
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@functools.lru_cache(maxsize=1)
def recorded(attack):
    """A call of an attack with batches of four on a model that notes every trace, and the model."""
    recorder = small_models.Recorder(np.random.default_rng(0).normal(size=(4, 3)))
    x = np.random.default_rng(1).uniform(size=(7, 4)).astype("float32")
    search, y = search_of(attack), np.array([0, 1, 2, 0, 1, 2, 0])

    def call(ball, **arguments):
        search(recorder, x, y, ball, batch_size=4, **arguments)
        return len(recorder.seen)

    call(a_ball(attack))
    return call, recorder


@every_attack
def test_calls_the_model_without_training_behaviour(attack):
    _, recorder = recorded(attack)
    assert set(recorder.seen) == {False}


@called_so
def test_without_labels_the_predictions_count(attack):
    model, x, _ = setup()
    y = model.predict(x, verbose=0).argmax(-1)
    ball, search = a_ball(attack), search_of(attack)
    expected = search(model, x, y, ball)
    np.testing.assert_allclose(search(model, x, None, ball), expected, rtol=0, atol=1e-6)
    if cases.kind_of(attack) == "ascent":
        assert np.abs(expected[-2:] - x[-2:]).max() > 1e-2


@every_attack
def test_returns_an_array_for_an_array_and_a_tensor_for_a_tensor(attack):
    model, x, y = setup()
    search, ball = search_of(attack), a_ball(attack)
    from_array = search(model, x, y, ball)
    from_tensor = search(model, keras.ops.convert_to_tensor(x), y, ball)
    assert type(from_array) is np.ndarray and keras.ops.is_tensor(from_tensor)
    assert from_array.dtype == from_tensor.dtype == "float32"
    np.testing.assert_array_equal(from_tensor, from_array)


@called_so
def test_runs_inside_a_traced_function_of_any_batch_size(attack):
    model, x, y = setup()
    threat_model = a_ball(attack)

    def perturb(x, y, seed):
        return search_of(attack)(model, x, y, threat_model, seed=seed)

    signature = [((None, *small_models.IMAGE), "float32"), ((None,), "int64"), ((2,), "int32")]
    traced = backends.traced(perturb, signature=signature)
    x, y = x[:-2], y[:-2]
    x_adv = np.asarray(traced(x, y, np.array([1, 2], "int32")))
    assert size(x_adv - x, threat_model).max() <= reach(attack, threat_model) + 1e-6
    # Restarts keep the example itself where no point that they met is better.
    gain = own_loss(attack, y, model(x_adv)) - own_loss(attack, y, model(x))
    # A divergence starts from 0 with no slope.
    enough = 0.01 if attack == "VirtualAdversarial" else 0.05
    if cases.kind_of(attack) == "ascent":
        assert gain.min() >= 0.0 and gain.mean() > enough
    np.testing.assert_array_equal(traced(x, y, np.array([1, 2], "int32")), x_adv)
    others = [traced(x, y, np.array([1, seed], "int32")) for seed in (3, 4, 5)]
    is_random = any(np.abs(other - x_adv).max() > 1e-4 for other in others)
    assert is_random == (attack in cases.RANDOM_ATTACKS)


@every_attack
def test_is_traced_once_for_every_radius_and_a_short_last_batch(attack):
    call, recorder = recorded(attack)
    ball, first = a_ball(attack), len(recorder.seen)
    assert first > 0
    for factor, seed in ((2.0, 0), (3.0, 5)):
        traces = call(ball.with_epsilon(factor * np.asarray(ball.epsilon)), seed=seed)
    # JAX fills batches up to one size, or to another where fewer than half would be left.
    assert traces == first or (backends.IS_JAX and traces <= 2 * first)


@pytest.mark.exhaustive
@every_attack
def test_config_gives_the_same_attack(attack):
    search = cases.ATTACKS[attack]
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(search))
    assert type(revived) is type(search)
    model, x, y = setup()
    ball = cases.balls_of(attack)[0]
    again = revived.run(model, x, y, cases.THREAT_MODELS[ball], seed=1)
    for one, expected in zip(again, found(attack, ball), strict=True):
        np.testing.assert_array_equal(one, expected)


@functools.lru_cache(maxsize=1)
def unchanged(search, ball):
    """What an attack finds on the network of the references."""
    x, y = numpy_reference.examples(12)
    return search(small_network(), x, y, ball)


@functools.cache
def small_network():
    return numpy_reference.keras_model()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (name, key)
        for name, changes in cases.ARGUMENT_CHANGES.items()
        for key in changes
        if (name, key) not in cases.CHANGES_ELSEWHERE
    ],
)
def test_every_argument_changes_the_result(name, argument):
    search = cases.ATTACKS[name]
    if argument == "num_restarts" and "random_start" in search.get_config():
        search = search.clone(random_start=True)
    changed = search.clone(**{argument: cases.ARGUMENT_CHANGES[name][argument]})
    ball = L2 if "L2" in cases.balls_of(name) else a_ball(name)
    if argument == "eot_samples":
        x, y = np.full((3, 2), 0.2, "float32"), np.zeros(3, "int32")
        one, other = (
            each(small_models.Alternating([3.0, -1.0], [-1.0, 2.0]), x, y, ball)
            for each in (search, changed)
        )
    else:
        x, y = numpy_reference.examples(12)
        one, other = unchanged(search, ball), changed(small_network(), x, y, ball)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("name", cases.ARGUMENT_CHANGES)
def test_no_argument_is_forgotten_above(name):
    cls = type(cases.ATTACKS[name])
    assert set(cls().get_config()) == set(cases.ARGUMENT_CHANGES[name])
    # One needs a model for its surrogate, one runs on data only, one is for few features: see
    # their own tests.
    elsewhere = {"AutoAttack", "GridSearch", "Transfer"}
    assert {cls.__name__ for cls in kr.attacks.ALL} == set(cases.ARGUMENT_CHANGES) | elsewhere
