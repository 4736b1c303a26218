import copy
import gc
import json
import pickle
import weakref

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import strongest
from tests.support import backends
from tests.support import refusals
from tests.support import small_models
from tests.support import tiers

BIM, PGD, Linf = kr.attacks.BIM, kr.attacks.PGD, kr.threat_models.Linf
WEIGHTS = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")


def linear(x):
    return x @ WEIGHTS


def examples(count=7):
    x = np.random.default_rng(1).uniform(0.2, 0.8, size=(count, 6)).astype("float32")
    return x, np.argmax(x @ WEIGHTS, axis=-1)


@keras.saving.register_keras_serializable(package="keras_robust_tests")
def twice_the_margin(y, logits):
    return 2.0 * kr.losses.margin(y, logits)


@tiers.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((0, 6), "float32")}, r"at least one example.*x of shape \(0, 6\)"),
        ({"x": np.float32(0.5)}, r"a batch of at least one example.*x of shape \(\)"),
        ({"x": np.full((7, 6), np.nan)}, "Inputs must be finite. Received: 42 NaN or Inf"),
        ({"x": np.full((7, 6), -np.inf)}, "Inputs must be finite. Received: 42 NaN or Inf"),
        ({"x": np.full((7, 6), 200, "uint8")}, r"Rescale them.*\[200, 200\] under bounds=\(0.0, 1"),
        ({"x": np.full((7, 6), -0.5)}, r"must lie in the bounds.*values in \[-0.5, -0.5\]"),
        ({"y": np.zeros(6, "int32")}, r"one label per example. Received: 7 examples.*\(6,\)"),
        ({"y": np.int32(0)}, r"one label per example. Received: 7 examples.*shape \(\)"),
        ({"y": np.arange(7)}, "indices from 0 to 2, as the model has 3.*labels from 0 to 6"),
        ({"y": np.full(7, -1)}, "indices from 0 to 2, as the model has 3.*labels from -1 to -1"),
        ({"y": np.array(list("abcabca"))}, "Labels must be class indices.*labels of dtype <U1"),
        ({"y": np.eye(5)[:, :4].repeat(2, 0)[:7]}, r"each of the 3 classes.*shape \((None|7), 4\)"),
        ({"y": [np.zeros(7), np.zeros(7)]}, r"attack one at a time.*Received: 2 arrays"),
        ({"model": None}, "Expected a keras.Model, or a function.*of type NoneType"),
        ({"threat_model": "l3"}, "Unknown threat model. Expected one of .*'l1', 'l2', 'linf'"),
        (
            {"threat_model": kr.threat_models.L2([0.1, 0.2])},
            r"one value per example.*Received: epsilon of shape \(2,\) for inputs of shape \(7,",
        ),
        (
            {"threat_model": Linf(keras.optimizers.schedules.ExponentialDecay(0.1, 9, 0.5))},
            "radius only at a training step",
        ),
        (
            {"model": lambda x: keras.ops.round(x) @ WEIGHTS},
            "no gradient with respect to its input",
        ),
        (
            {"model": lambda x: keras.ops.one_hot(keras.ops.argmax(x, -1), 3)},
            r"no gradient with respect.*an input of shape \((None|7), 6\) and dtype float32",
        ),
        (
            {"model": lambda x: x[:, None] @ WEIGHTS},
            r"one classification output.*Received: outputs \[\(\((None|7), 1, 3\), ",
        ),
    ],
)
def test_bad_calls_are_explained(change, message):
    x, y = examples()
    arguments = {"model": linear, "x": x, "y": y, "threat_model": Linf(0.1), **change}
    with refusals.assert_refused(message):
        BIM()(**arguments)


@pytest.mark.exhaustive
def test_a_list_of_rows_is_labels():
    x, y = examples()
    rows = list(np.eye(3, dtype="float32")[y])
    np.testing.assert_array_equal(
        BIM()(linear, x, rows, Linf(0.1)), BIM()(linear, x, np.stack(rows), Linf(0.1))
    )


def test_wrong_labels_in_later_batches_are_refused():
    x, y = examples()
    attack = BIM()
    for row in (6, 0):
        wrong = np.where(np.arange(7) == row, 3, y)
        with refusals.assert_refused("Labels must be class indices.*to 3"):
            attack(linear, x, wrong, Linf(0.1), batch_size=2)


def test_dlr_needs_three_classes():
    x, _ = examples()
    message = 'needs at least 3 classes; use loss="margin" for two. Received: logits of shape'
    with refusals.assert_refused(message):
        BIM(loss="dlr")(lambda x: x @ WEIGHTS[:, :2], x, np.zeros(7, "int32"), Linf(0.1))


@pytest.mark.parametrize("identifier", ["pgdd", None, 3, {"num_steps": 3}])
def test_an_unknown_name_lists_the_known_attacks(identifier):
    known = ", ".join(sorted(repr(cls.__name__.lower()) for cls in kr.attacks.ALL))
    message = f"Unknown attack. Expected one of {known}, or an object of Attack. Received: "
    with pytest.raises(ValueError, match=message):
        kr.attacks.get(identifier)


@pytest.mark.parametrize("identifier", ["momentum_pgd", "MomentumPGD", kr.attacks.MomentumPGD])
def test_get_takes_names_and_classes(identifier):
    found = kr.attacks.get(identifier)
    assert type(found) is kr.attacks.MomentumPGD
    assert (found.decay, found.num_steps) == (1.0, 10)


def test_get_takes_configs_and_objects():
    attack = PGD(num_steps=3)
    assert kr.attacks.get(attack) is attack
    assert kr.attacks.get(keras.saving.serialize_keras_object(attack)).num_steps == 3


def test_inputs_a_rounding_error_outside_of_the_box_are_clipped():
    x, y = examples()
    x[0, 0] = 1.00005
    x_adv = BIM(num_steps=1)(linear, x, y, Linf(0.0))
    assert x_adv[0, 0] == 1.0
    np.testing.assert_array_equal(x_adv[1:], x[1:])


def test_label_forms_lead_to_the_same_example():
    x, y = examples()
    attack, ball = BIM(num_steps=2), kr.threat_models.L2(0.3)
    expected = attack(linear, x, y, ball)
    for other in (y[:, None], y.astype("float32"), np.eye(3)[y], np.eye(3, dtype="int64")[y]):
        np.testing.assert_array_equal(attack(linear, x, other, ball), expected)


@tiers.parametrize("cls", [kr.threat_models.L1, kr.threat_models.L2, Linf])
def test_a_radius_per_example_reaches_the_batch_of_its_example(cls):
    x, y = examples()
    epsilon = np.linspace(0.0, 0.3, 7)
    attack = BIM(num_steps=2)
    # First a scalar radius: the function traced for it must not be reused.
    attack(linear, x, y, cls(0.1))
    together = attack(linear, x, y, cls(epsilon[:, None]), batch_size=3)
    apart = [attack(linear, x[[i]], y[[i]], cls(epsilon[i])) for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=0, atol=1e-6)
    assert np.abs(together - x).max(axis=-1).argmin() == 0


def test_a_radius_for_each_channel_with_as_many_channels_as_examples():
    x, y = examples(6)
    x_adv = BIM()(linear, x, y, Linf(np.linspace(0.0, 0.1, 6)), batch_size=4)
    np.testing.assert_allclose(np.abs(x_adv - x).max(axis=0), np.linspace(0, 0.1, 6), atol=1e-6)


def test_bounds_for_each_channel():
    x, y = examples()
    low, high = x.min(axis=0) - 0.01, x.max(axis=0) + 0.02
    x_adv = BIM()(linear, x, y, Linf(0.3, (low, high)))
    assert np.all(x_adv >= low) and np.all(x_adv <= high)
    assert np.abs(x_adv - x).max() > 0.1


@pytest.mark.exhaustive
def test_bounds_of_an_earlier_call_are_not_reused():
    x, y = examples()
    attack = BIM()
    attack(linear, x, y, Linf(0.5))
    assert attack(linear, x, y, Linf(0.5, None)).min() < 0.0
    many = 2000
    model = lambda x: keras.ops.stack([x[:, 0], 0.5 + 0.0 * x[:, 0]], axis=-1)  # noqa: E731
    wide, narrow = np.ones(many), np.ones(many)
    narrow[many // 2] = 0.5
    x, y = np.full((1, many), 0.4, "float32"), np.array([1])
    loss = lambda y, logits: logits[:, 0]  # noqa: E731
    attack = BIM(num_steps=1, loss=loss)
    attack(model, x, y, Linf(0.3, (0.0, wide)))
    # NumPy abbreviates long arrays when it prints them. Bounds that differ only in the middle must
    # still count as different.
    middle = lambda x: model(x[:, many // 2 :])  # noqa: E731
    attack(middle, x, y, Linf(0.3, (0.0, wide)))
    found = attack(middle, x, y, Linf(0.3, (0.0, narrow)))
    np.testing.assert_allclose(found[0, many // 2], 0.5, atol=1e-6)


def test_new_weights_take_effect():
    x, y = examples()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    attack = BIM(num_steps=1)
    model.layers[0].set_weights([WEIGHTS, np.zeros(3)])
    first = attack(model, x, y, Linf(0.1))
    model.layers[0].set_weights([WEIGHTS[::-1], np.zeros(3)])
    y = np.argmax(x @ WEIGHTS[::-1], axis=-1)
    fresh = BIM(num_steps=1)(model, x, y, Linf(0.1))
    np.testing.assert_array_equal(attack(model, x, y, Linf(0.1)), fresh)
    assert np.abs(fresh - first).max() > 0.05


def test_two_models_are_not_mixed_up():
    x, y = examples()
    attack = BIM(num_steps=1)
    found = [attack(model, x, y, Linf(0.1)) for model in (linear, lambda x: -linear(x), linear)]
    np.testing.assert_array_equal(found[0], found[2])
    # Under the negative model every example is misclassified.
    np.testing.assert_array_equal(found[1], x)
    assert np.abs(found[0] - x).max() > 0.05


@pytest.mark.exhaustive
def test_a_model_is_not_kept_alive():
    x, y = examples()
    attack = BIM(num_steps=1)
    model = small_models.Recorder(WEIGHTS)
    attack(model, x, y, Linf(0.1))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_random_numbers_depend_on_the_position():
    x, y = examples()
    attack = PGD(num_steps=1, step_size=1e-4)
    whole = attack(linear, x, y, kr.threat_models.L2(0.1), seed=3)
    np.testing.assert_allclose(
        attack(linear, x[:4], y[:4], kr.threat_models.L2(0.1), seed=3), whole[:4], atol=1e-6
    )
    # Copies of one example get different starts; those whose start has a lower loss return the
    # example itself.
    x, y = np.repeat(x[:1], 20, axis=0), np.repeat(y[:1], 20)
    same = attack(linear, x, y, Linf(0.1), seed=3)
    moved = same[np.abs(same - x).max(axis=-1) > 0.0]
    assert len(np.unique(moved.round(5), axis=0)) == len(moved) > 4


def test_a_model_that_returns_nan_leaves_the_examples_unchanged():
    x, y = examples()
    found = BIM().run(lambda x: linear(x) * np.float32("nan"), x, y, Linf(0.1))
    np.testing.assert_array_equal(found.x_adv, x)


def test_softmax_and_one_logit_models_have_the_attack_of_their_logits():
    x, _ = examples()
    y = (x @ (WEIGHTS[:, 1] - WEIGHTS[:, 0]) > 0).astype("int32")
    ball, attack = kr.threat_models.L2(0.3), BIM(num_steps=3)
    expected = attack(lambda x: x @ WEIGHTS[:, :2], x, y, ball)
    softmax = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, activation="softmax")])
    softmax.layers[0].set_weights([WEIGHTS[:, :2], np.zeros(2)])
    np.testing.assert_allclose(attack(softmax, x, y, ball), expected, rtol=0, atol=1e-6)
    sigmoid = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])
    sigmoid.layers[0].set_weights([WEIGHTS[:, 1:2] - WEIGHTS[:, :1], np.zeros(1)])
    sigmoid.compile("sgd", "binary_crossentropy")
    for labels in (y, y[:, None].astype("float32")):
        np.testing.assert_allclose(attack(sigmoid, x, labels, ball), expected, rtol=0, atol=1e-6)


def test_clone_changes_the_given_arguments():
    attack = PGD(num_steps=3, loss="margin")
    assert attack.clone(num_steps=5).get_config() == {**attack.get_config(), "num_steps": 5}
    assert attack.num_steps == 3


def test_repr_shows_the_arguments():
    assert repr(kr.attacks.FGSM(loss="dlr")) == "FGSM(targeted=False, loss='dlr')"


def test_config_survives_json_also_with_a_function():
    for attack in (PGD(loss=twice_the_margin), PGD(step_size="2/255", random_start="gaussian")):
        text = json.dumps(keras.saving.serialize_keras_object(attack))
        revived = keras.saving.deserialize_keras_object(json.loads(text))
        assert revived.get_config() == attack.get_config()


def test_a_custom_attack_needs_only_a_search():
    class Corner(kr.attacks.Attack):
        def search(self, problem):
            x, y = problem.x, problem.y
            x_adv = problem.threat_model.project(x + 1.0, x)
            classes = keras.ops.argmax(problem.classifier.logits(x_adv), -1)
            wrong = keras.ops.not_equal(keras.ops.cast(classes, y.dtype), y)
            zero = keras.ops.zeros(keras.ops.shape(x)[0])
            return kr.attacks.AttackResult(x_adv, zero, wrong, wrong, keras.ops.cast(zero, "int32"))

    x, y = examples()
    assert repr(Corner()) == "Corner()"
    found = Corner().run(linear, x, y, Linf(0.1))
    np.testing.assert_allclose(found.x_adv, x + 0.1, atol=1e-6)
    np.testing.assert_array_equal(found.success, np.argmax((x + 0.1) @ WEIGHTS, -1) != y)


def test_a_search_may_use_the_prologue_and_the_epilogue_of_the_base_class():
    class Corner(kr.attacks.Attack):
        def search(self, problem):
            score = make_attack_loss(problem, "margin", False)
            clean = self.score_clean(problem, score)
            x_adv = problem.threat_model.project(problem.x + 1.0, problem.x)
            moved = kr.attacks.AttackResult.scored(x_adv, score, queries=5)
            return self.leave_mistakes(clean, strongest(clean, moved))

    x, y = examples()
    y[:3] = (y[:3] + 1) % 3
    found = Corner().run(linear, x, y, Linf(0.1))
    np.testing.assert_array_equal(found.x_adv[:3], x[:3])
    margins = [kr.losses.FUNCTIONS["margin"](y, linear(one)) for one in (x, x + np.float32(0.1))]
    moves = np.greater(margins[1], margins[0]) & (np.arange(7) >= 3)
    assert 0 < moves.sum() < 4
    np.testing.assert_allclose(found.x_adv, x + 0.1 * moves[:, None], atol=1e-6)
    np.testing.assert_allclose(found.loss, np.where(moves, margins[1], margins[0]), atol=1e-5)
    np.testing.assert_array_equal(found.success, found.loss > 0)
    assert found.queries.tolist() == [7] * 7


def test_the_progress_bar_counts_examples(capsys):
    x, y = examples()
    BIM(num_steps=1)(linear, x, y, Linf(0.1), verbose=True, batch_size=4)
    assert "7/7" in capsys.readouterr().out
    BIM(num_steps=1)(linear, x, y, Linf(0.1))
    assert capsys.readouterr().out == ""


@pytest.mark.exhaustive
def test_a_seed_inside_a_traced_function_is_a_number_or_a_tensor():
    x, y = examples()

    @backends.traced
    def traced(x, seed):
        return PGD(num_steps=1)(linear, x, y, kr.threat_models.L2(0.2), seed=seed)

    found = [
        np.asarray(traced(x, seed))
        for seed in (1, 2, keras.ops.convert_to_tensor(1), keras.ops.convert_to_tensor([1, 0]))
    ]
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[0], found[3], rtol=0, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.exhaustive
def test_a_used_attack_can_be_copied_and_pickled():
    x = np.full((2, 3), 0.5, "float32")
    attack = kr.attacks.PGD(num_steps=2)
    expected = attack(lambda x: x, x, np.array([0, 1]), kr.Linf(0.1))
    for again in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        np.testing.assert_array_equal(
            again(lambda x: x, x, np.array([0, 1]), kr.Linf(0.1)), expected
        )


@pytest.mark.exhaustive
def test_a_used_attack_sees_the_rules_of_another_threat_model():
    class Masked(kr.Linf):
        def __init__(self, epsilon, mask):
            super().__init__(epsilon)
            self.mask = np.asarray(mask, "float32")

        def get_config(self):
            return {**super().get_config(), "mask": self.mask.tolist()}

        def project(self, x_adv, x):
            return x + self.mask * (super().project(x_adv, x) - x)

    x = np.full((2, 6), 0.5, "float32")

    def model(x):
        return x @ WEIGHTS

    attack, masks = BIM(), ([1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1])
    for mask in masks:
        x_adv = attack(model, x, np.array([0, 1]), Masked(0.1, mask))
        np.testing.assert_array_equal(x_adv[:, np.array(mask) == 0], 0.5)
