import pytest
from absl import flags

import keras_robust as kr
from apps import names


@pytest.fixture
def parse():
    """Defines a flag --dish, and returns a function that parses it."""
    names.define("dish", None, ["soup", "apple_pie", "Fish"], "What to eat.")
    values = flags.FlagValues()
    values["dish"] = flags.FLAGS["dish"]
    delattr(flags.FLAGS, "dish")

    def parse(text):
        values.unparse_flags()
        values(["program", f"--dish={text}"])
        return values.dish

    parse.help = values["dish"].help
    return parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("soup", "soup"),
        ("SOUP", "soup"),
        ("apple_pie", "apple_pie"),
        ("ApplePie", "apple_pie"),
        ("applepie", "apple_pie"),
        ("fish", "Fish"),
    ],
)
def test_names_in_any_spelling(parse, text, expected):
    assert parse(text) == expected


def test_an_unknown_name_suggests_the_nearest(parse):
    with pytest.raises(
        flags.Error,
        match="flag --dish=aple_pie: value should be one of <Fish|apple_pie|soup>; did you mean",
    ):
        parse("aple_pie")
    with pytest.raises(flags.Error, match=r"should be one of <Fish\|apple_pie\|soup>$"):
        parse("zzz")


def test_the_help_lists_them(parse):
    assert parse.help == "<Fish|apple_pie|soup>: What to eat."


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (kr.attacks.PGD, "pgd"),
        (kr.attacks.NFGSM, "nfgsm"),
        (kr.attacks.RandomStartFGSM, "random_start_fgsm"),
        (kr.attacks.MomentumPGD, "momentum_pgd"),
        (kr.attacks.TargetedAPGD, "targeted_apgd"),
        (kr.attacks.HopSkipJump, "hop_skip_jump"),
        (kr.objectives.CleanLogitPairing, "clean_logit_pairing"),
        (kr.objectives.IBP, "ibp"),
        (kr.objectives.MTLIBP, "mtlibp"),
    ],
)
def test_snake_case(cls, expected):
    assert names.snake_case(cls) == expected
