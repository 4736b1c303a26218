import numpy as np
import pytest
from absl import flags

import keras_robust as kr
from apps import shared_flags
from tests.support import refusals


@pytest.fixture
def parsed():
    """Defines all shared flags, and returns a function that parses them."""
    before = set(flags.FLAGS)
    shared_flags.define_data()
    shared_flags.define_threat_model()
    shared_flags.define_evaluation()
    shared_flags.define_training()
    own = set(flags.FLAGS) - before
    values = flags.FlagValues()
    for name in own:
        values[name] = flags.FLAGS[name]
        delattr(flags.FLAGS, name)

    def parse(*arguments):
        values.unparse_flags()
        values(["program", *arguments])
        return values

    return parse


def test_defaults(parsed):
    assert parsed().flag_values_dict() == {
        "dataset": "digits",
        "data_dir": None,
        "bounds": None,
        "batch_size": 32,
        "seed": 0,
        "threat_model": "linf",
        "epsilon": None,
        "evaluation_steps": 50,
        "evaluation_restarts": 10,
        "evaluation_examples": None,
        "epochs": 30,
        "learning_rate": 2e-3,
        "num_steps": None,
        "warmup": "20%",
        "attack_dtype": None,
        "checkpoint_dir": None,
        "output_dir": "runs/latest",
    }


@pytest.mark.parametrize(
    "argument",
    [
        "--batch_size=0",
        "--seed=-1",
        "--seed=2147483648",
        "--threat_model=l3",
        "--attack_dtype=half",
        "--evaluation_steps=0",
        "--evaluation_restarts=0",
        "--evaluation_examples=0",
        "--epochs=0",
        "--learning_rate=0",
        "--num_steps=0",
        "--seed=x",
    ],
)
def test_wrong_values_are_refused(parsed, argument):
    with refusals.assert_refused(f"flag {argument}: ", error=flags.Error, times=0):
        parsed(argument)


def test_the_largest_seed_is_a_seed_for_tensorflow(parsed):
    seed = parsed("--seed=2147483647").seed
    attack = kr.attacks.PGD(num_steps=1)
    x_adv = attack(lambda x: x, [[0.5, 0.5]], [0], kr.Linf(0.1), seed=seed)
    np.testing.assert_allclose(x_adv, [[0.4, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
def test_every_threat_model_has_its_name(parsed, name):
    threat_model = shared_flags.make_threat_model(
        parsed(f"--threat_model={name}").threat_model, "0.25", "digits"
    )
    assert type(threat_model).__name__.lower() == name
    assert threat_model.epsilon == 0.25


@pytest.mark.parametrize(
    "name,epsilon,dataset,expected",
    [
        ("linf", None, "digits", 0.15),
        ("linf", None, "mnist", 0.3),
        ("linf", None, "fashion_mnist", 0.1),
        ("linf", None, "cifar10", 8 / 255),
        ("linf", "4/255", "mnist", 4 / 255),
        ("l2", None, "digits", kr.L2().epsilon),
        ("l1", None, "mnist", kr.L1().epsilon),
    ],
)
def test_radii(name, epsilon, dataset, expected):
    threat_model = shared_flags.make_threat_model(name, epsilon, dataset)
    assert threat_model.epsilon == pytest.approx(expected)
    assert threat_model.bounds == (0.0, 1.0)


@pytest.mark.parametrize(
    "name,epsilon,dataset,bounds,expected",
    [
        ("linf", "8", "digits", (0.0, 255.0), 8.0),
        ("linf", None, "cifar10", (0.0, 255.0), 8.0),
        ("linf", None, "mnist", (-1.0, 1.0), 0.6),
        ("l2", None, "digits", (0.0, 255.0), 255 * kr.L2().epsilon),
        ("l1", None, "digits", (-1.0, 1.0), 2 * kr.L1().epsilon),
    ],
)
def test_radii_are_in_the_units_of_the_bounds(name, epsilon, dataset, bounds, expected):
    threat_model = shared_flags.make_threat_model(name, epsilon, dataset, bounds)
    assert threat_model.epsilon == pytest.approx(expected)
    assert threat_model.bounds == bounds


@pytest.mark.parametrize(
    "argument,expected",
    [(None, (0.0, 1.0)), ("0,255", (0.0, 255.0)), ("-1, 1/2", (-1.0, 0.5))],
)
def test_bounds(parsed, argument, expected):
    values = parsed(*([] if argument is None else [f"--bounds={argument}"]))
    assert shared_flags.parse_bounds(values.bounds) == expected


@pytest.mark.parametrize("argument", ["255", "0,1,2", "0,many", "1/0,1", "255,0", "1,1", ""])
def test_wrong_bounds_are_refused(parsed, argument):
    with refusals.assert_refused(f"such as --bounds=0,255. Received: --bounds={argument}$"):
        shared_flags.parse_bounds(parsed(f"--bounds={argument}").bounds)


def test_the_images_are_scaled_to_the_bounds():
    plain = shared_flags.load_dataset("digits", None)
    found = shared_flags.load_dataset("digits", None, (-2.0, 14.0))
    for part in ("train", "validation", "test"):
        (x, y), (scaled, labels) = getattr(plain, part), getattr(found, part)
        assert scaled.dtype == "float32"
        np.testing.assert_allclose(scaled, 16.0 * x - 2.0, atol=1e-5)
        np.testing.assert_array_equal(labels, y)
    assert (found.test[0].min(), found.test[0].max()) == (-2.0, 14.0)


@pytest.mark.parametrize("epsilon", ["-1", "2", "8/0", "eight"])
def test_wrong_radii_are_refused(epsilon):
    with refusals.assert_refused(f"Argument `epsilon`.*Received: epsilon='{epsilon}'"):
        shared_flags.make_threat_model("linf", epsilon, "digits")


def test_suite_is_pgd_of_the_strength_on_two_losses():
    suite = shared_flags.make_suite(7, 3)
    assert [attack.loss for attack in suite] == ["cross_entropy", "margin"]
    assert [(attack.num_steps, attack.num_restarts) for attack in suite] == [(7, 3), (7, 3)]
    for attack in suite:
        expected = kr.attacks.PGD(num_steps=7, num_restarts=3, loss=attack.loss)
        assert attack.get_config() == expected.get_config() and type(attack) is kr.attacks.PGD


def test_load_dataset():
    dataset = shared_flags.load_dataset("digits", None)
    assert dataset.name == "digits"
    assert dataset.train[0].shape == (1297, 8, 8, 1)
