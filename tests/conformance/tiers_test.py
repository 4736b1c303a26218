"""Every property of every class is in one of the two tiers of the tests."""

import ast
import pathlib

import pytest

from tests.support import cases
from tests.support import groups
from tests.support import properties
from tests.support import tiers

TESTS = pathlib.Path(__file__).parents[1]
FOUND = {(one.name, one.package): one for one in properties.properties()}

# See the tests of their modules: attacks that need a second model, run on data only or are for few
# features, and callbacks that hold data, and so have no config.
ELSEWHERE = {
    "attacks": {"AutoAttack", "GridSearch", "Transfer"},
    "callbacks": {"CollapseGuard", "RobustValidation"},
}
# Loops over some of the classes, and which.
SOME = {
    "attacks_test::test_never_lowers_the_loss_and_moves_every_example": "climb a loss in the ball",
    "constant_features_test::test_attacks_find_mistakes_without_it": "find any point of a ball",
    "constant_features_test::test_no_point_of_a_ball_changes_it": "have a box of their own",
    "determinism_test::test_an_attack_again_gives_the_same_examples": "one of each kind of search",
    "linear_oracle_test::test_iterative_attacks_reach_the_best_point": "have a closed form there",
    "linear_oracle_test::test_fgsm_reaches_the_best_point_in_one_step": "the norms of one step",
    **{
        f"layers_test::{name}": "take images"
        for name in (
            "test_file_round_trip",
            "test_export_has_plain_ops_and_takes_any_batch",
            "test_examples_do_not_mix",
            "test_xla_gives_the_same_values_and_gradients",
            "test_mixed_precision_rounds_the_result_only",
            "test_float64_stays_float64",
            "test_keras_knows_the_output_shape",
        )
    },
}
# Modes of training, and ways to call an attack. The default tier tries each with every kind of step
# and of search, not with every class.
MODES = {
    "attacks_test::test_runs_inside_a_traced_function_of_any_batch_size",
    "attacks_test::test_without_labels_the_predictions_count",
    "objectives_test::test_a_sigmoid_at_the_end_equals_two_logits",
    "objectives_test::test_a_softmax_at_the_end_equals_logits",
    "objectives_test::test_accumulation_in_mixed_precision_trains",
    "objectives_test::test_two_devices_reach_the_weights_of_one",
    "objectives_test::test_xla_takes_the_same_steps_in_one_trace",
}
# In the exhaustive tier alone: what every argument of a class does, and attacks that were read from
# a config, of which `config_test` says by default that the config is the same.
LATER = {
    "attacks_test::test_every_argument_changes_the_result",
    "attacks_test::test_config_gives_the_same_attack",
}
# Files that are in the exhaustive tier as a whole: processes that are killed, a program in C, the
# script of that tier, and effects of whole trainings.
WHOLE_FILES = {
    "conformance/awp_modes_test.py",
    "conformance/bounds_test.py",
    "conformance/c_loader_test.py",
    "conformance/collapse_test.py",
    "conformance/distillation_test.py",
    "conformance/kill_test.py",
    "conformance/passed_test.py",
    "conformance/soundness_test.py",
    "examples/robust_overfitting_test.py",
}


def _classes(package):
    """The public classes of a package that its loops hold."""
    return {type(case).__name__ for case in cases.CASES[package].values()}


@pytest.mark.parametrize(("name", "package"), FOUND)
def test_a_property_holds_for_every_class(name, package):
    if name not in SOME:
        assert FOUND[name, package].classes >= _classes(package) - ELSEWHERE.get(package, set())


@pytest.mark.parametrize(("name", "package"), FOUND)
def test_the_default_tier_holds_every_property_of_every_class(name, package):
    one = FOUND[name, package]
    if name in {*MODES, *SOME}:
        assert one.default
    elif name not in LATER:
        assert one.default == one.classes


# How many properties the files hold that loop over all classes of a package.
@pytest.mark.parametrize(("file", "count"), [("attacks_test", 17), ("objectives_test", 9)])
def test_no_property_is_lost(file, count):
    assert sum(name.startswith(f"{file}::") for name, _ in FOUND) == count


def _has_default_tests(path):
    """Whether a test in a file has no marker of its own, nor has the whole file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if any(isinstance(node, ast.Assign) and "exhaustive" in ast.unparse(node) for node in body):
        return False
    tests = [node for node in body if getattr(node, "name", "").startswith("test_")]
    marks = [" ".join(map(ast.unparse, test.decorator_list)) for test in tests]
    return not all("exhaustive" in mark for mark in marks)


def test_the_default_tier_holds_something_of_every_file():
    files = {path for path in TESTS.rglob("*_test.py") if not _has_default_tests(path)}
    assert {str(path.relative_to(TESTS)) for path in files} == WHOLE_FILES


def test_the_lists_above_are_not_stale():
    names = {name for name, _ in FOUND}
    assert len(names) > 40
    assert names >= {*SOME, *MODES, *LATER}
    assert all(one.exhaustive for one in FOUND.values() if one.name in MODES)
    assert not any(FOUND[name, "attacks"].default for name in LATER)


def _tiers(mark):
    """The ids of the cases of a mark in each tier."""
    found = {False: [], True: []}
    for param in mark.args[1]:
        is_exhaustive = any(one.name == "exhaustive" for one in param.marks)
        found[is_exhaustive].append(param.values)
    return found[False], found[True]


def test_one_case_for_each_key_is_in_the_default_tier():
    cases_of = [("PGD", "L2"), ("PGD", "Linf"), ("FAB", "L1"), ("FAB", "L2")]
    by_attack = tiers.parametrize("attack,ball", cases_of, one_for=lambda attack, ball: attack)
    assert _tiers(by_attack.mark) == ([("PGD", "L2"), ("FAB", "L1")], cases_of[1::2])
    first = tiers.parametrize("ball", ["L2", pytest.param("L1", id="other"), "Linf"])
    assert _tiers(first.mark) == ([("L2",)], [("L1",), ("Linf",)])
    assert [param.id for param in first.mark.args[1]] == [None, "other", None]


def test_properties_are_read_from_the_cases():
    @tiers.parametrize("name", ["PGD", "PGD-margin", "FAB"], one_for=cases.class_of)
    def both():
        pass

    @pytest.mark.exhaustive
    @pytest.mark.parametrize(("count", "name"), [(1, "Linf"), (2, "none")])
    def never():
        pass

    (one,) = properties._properties_of("both", both.pytestmark)
    assert one == ("both", "attacks", {"PGD", "FAB"}, set())
    (one,) = properties._properties_of("never", never.pytestmark)
    assert one == ("never", "threat_models", set(), {"Linf"})


def test_tests_of_one_class_are_a_group():
    file = "tests/conformance/attacks_test.py"
    assert groups.group_of(f"{file}::test_a[PGD-margin-L2]") == f"{file}::PGD"
    assert groups.group_of(f"{file}::test_b[PGD]") == f"{file}::PGD"
    assert groups.group_of(f"{file}::test_c") == file
    assert (
        groups.group_of("tests/attacks/gradient/pgd_test.py::test_d[PGD]")
        == "tests/attacks/gradient/pgd_test.py"
    )
    assert all((TESTS.parent / path).is_file() for path in groups.BY_CLASS)
