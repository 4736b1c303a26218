import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from tests.support import black_box
from tests.support import linear_model
from tests.support import numpy_reference

RandomNoise = kr.attacks.RandomNoise
SEEDS = np.array([[5, 6], [5, 9], [7, 6], [1, 2], [0, 3]], "int32")
EPSILON = {"Linf": 0.2, "L2": 0.5, "L1": 0.9}


def search(attack, ball, keep_best=True, seeds=SEEDS):
    x, y = numpy_reference.examples()
    classifier = backend.Classifier(numpy_reference.keras_model())
    return attack.search(classifier, keras.ops.convert_to_tensor(x), y, ball, seeds, keep_best)


def worst(ball, count, sphere=False, loss="cross_entropy", seeds=SEEDS):
    """The worst of the draws by float64 logits."""
    x, y = numpy_reference.examples()
    draw = ball.sphere_start if sphere else ball.random_start
    points = [np.asarray(draw(x, seeds + np.array([i, 0], "int32"))) for i in range(count)]
    scores = []
    for point in points:
        z = numpy_reference.logits(point.astype("float64"))
        cross_entropy = np.log(np.exp(z).sum(-1)) - z[np.arange(len(y)), y]
        value = loss(y, z) if callable(loss) else cross_entropy
        scores.append(value + 1e3 * (z.argmax(-1) != y))
    return np.stack(points)[np.argmax(scores, axis=0), np.arange(len(y))]


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("norm", EPSILON)
def test_is_the_worst_of_the_draws(norm, sphere):
    ball = getattr(kr.threat_models, norm)(EPSILON[norm])
    found = search(RandomNoise(num_samples=25, sphere=sphere), ball)
    np.testing.assert_allclose(found.x_adv, worst(ball, 25, sphere), rtol=0, atol=1e-6)


def test_the_loss_says_what_is_worst():
    ball = kr.Linf(0.02)

    def first(y, logits):
        return logits[:, 0]

    one, other = (worst(ball, 40, loss=loss) for loss in ("cross_entropy", first))
    assert np.abs(one - other).max() > 0.01
    found = search(RandomNoise(num_samples=40, loss=first), ball)
    np.testing.assert_allclose(found.x_adv, other, rtol=0, atol=1e-6)


def test_more_draws_are_never_better_for_the_model():
    ball = kr.L2(0.3)
    losses = [search(RandomNoise(num_samples=count), ball).loss for count in (1, 3, 12, 40)]
    assert np.all(np.diff(losses, axis=0) >= 0.0) and np.all(losses[-1] > losses[0])


def test_breaks_as_many_examples_as_noise_does():
    # Both coordinates uniform in +-0.15: the second gains 0.2 on the first in 1 of 18 cases.
    x = np.tile(np.array([[0.6, 0.4]], "float32"), (6000, 1))
    found = RandomNoise(num_samples=1).run(lambda x: x, x, np.zeros(6000, int), kr.Linf(0.15))
    assert found.success.mean() == pytest.approx(1 / 18, abs=0.01)


def test_targets():
    x, y = numpy_reference.examples()
    model, ball = numpy_reference.keras_model(), kr.Linf(0.4)
    second = np.argsort(numpy_reference.logits(x), axis=-1)[:, 1]
    aimed = RandomNoise(num_samples=200, targeted=True).run(model, x, second, ball)
    reached = numpy_reference.logits(aimed.x_adv).argmax(-1) == second
    np.testing.assert_array_equal(aimed.success, reached)
    guessed = RandomNoise(num_samples=200, targeted="least_likely").run(model, x, y, ball)
    wrong = numpy_reference.logits(guessed.x_adv).argmax(-1) != y
    np.testing.assert_array_equal(guessed.success, wrong)
    assert reached.any() and (guessed.x_adv != aimed.x_adv).any()


def test_what_no_draw_makes_worse_stays():
    x, y = linear_model.examples()
    found = RandomNoise(num_samples=5).run(
        lambda x: keras.ops.stack([-((x[:, 0, 0, 0] - x0) ** 2) for x0 in (0.0, 9.0)], -1),
        np.zeros_like(x),
        np.zeros_like(y),
        kr.Linf(0.1),
    )
    np.testing.assert_array_equal(found.x_adv, 0.0)
    assert not found.success.any() and not found.zero_gradient.any()


def test_in_training_it_is_the_worst_draw_even_if_the_example_is_worse():
    ball = kr.Linf(0.001)
    found = search(RandomNoise(num_samples=1), ball, keep_best=False)
    np.testing.assert_array_equal(found.x_adv, worst(ball, 1))


def test_asks_a_model_without_gradients_as_often_as_it_says():
    x, y = linear_model.examples()
    model = black_box.BlackBox(black_box.linear)
    found = RandomNoise(num_samples=37).run(model, x, y, kr.Linf(0.2), batch_size=2)
    assert found.queries.tolist() == [39] * len(x) and model.asked == 39 * len(x)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_samples": 0}, "`num_samples` must be an int >= 1. Received: 0"),
        ({"num_samples": 1.5}, "`num_samples` must be an int >= 1. Received: 1.5"),
        ({"sphere": "yes"}, "`sphere` must be one of .*Received: 'yes'"),
        ({"targeted": "most"}, "`targeted` must be one of .*Received: 'most'"),
        ({"loss": "compiled"}, "`loss` must be one of .*Received: 'compiled'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomNoise(**arguments)
