import keras
import pytest

import keras_robust as kr
from keras_robust.objectives.objective import check_weight


class Weighted(kr.objectives.Objective):
    def __init__(self, first=1.0, second="b"):
        self.first = first
        self.second = second


def test_perturb_is_what_the_attack_finds():
    class Asked(kr.attacks.Attack):
        def perturb(self, *request):
            return request

    request = ("classifier", "x", "y", "threat model", "seed")
    assert kr.objectives.Objective().perturb(Asked(), *request) == request


def test_the_base_has_no_loss():
    with pytest.raises(NotImplementedError):
        kr.objectives.Objective().loss(None, None)


def test_config_and_repr_come_from_the_constructor():
    objective = Weighted(second="c")
    assert objective.get_config() == {"first": 1.0, "second": "c"}
    assert repr(objective) == "Weighted(first=1.0, second='c')"
    assert Weighted.from_config(objective.get_config()).get_config() == objective.get_config()
    assert kr.objectives.Objective().get_config() == {}


@pytest.mark.parametrize(
    "identifier,expected",
    [
        ("adversarial", kr.objectives.Adversarial),
        ("TRADES", kr.objectives.TRADES),
        ("clean_logit_pairing", kr.objectives.CleanLogitPairing),
        (kr.objectives.Mixed, kr.objectives.Mixed),
        (keras.saving.serialize_keras_object(kr.objectives.TRADES()), kr.objectives.TRADES),
    ],
)
def test_get(identifier, expected):
    assert type(kr.objectives.get(identifier)) is expected


def test_get_keeps_an_instance():
    objective = kr.objectives.TRADES(beta=1.5)
    assert kr.objectives.get(objective) is objective


@pytest.mark.parametrize("identifier", ["pgd", None, kr.attacks.PGD()])
def test_get_unknown(identifier):
    with pytest.raises(ValueError, match="Unknown objective. Expected one of 'adversarial', 'cl"):
        kr.objectives.get(identifier)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 2])
def test_check_weight_returns_the_value(value):
    assert check_weight("name", value, maximum=2.0) is value


@pytest.mark.parametrize("value", [-1e-9, 2.1, float("nan"), "1", None, [1.0]])
def test_check_weight_says_what_it_received(value):
    with pytest.raises(ValueError, match="Argument `name` must be a number from 0 to 2.0. Receive"):
        check_weight("name", value, maximum=2.0)
