import pytest

from keras_robust.evaluation.reports.characters import HIDDEN
from keras_robust.evaluation.reports.characters import one_line
from keras_robust.evaluation.reports.characters import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\x00\x7f\x9b", "a\\x00\\x7f\\x9b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\ud800", "\\ud800"),
        ("a\rb\u2028c", "a\\rb\\u2028c"),
    ],
)
def test_hidden_characters_are_shown(text, shown):
    assert visible(text) == shown and not HIDDEN.search(shown)
    shown.encode()


def test_ordinary_text_is_unchanged():
    text = "zwölf ε, \u06a9\u200c\u0627, 👩\u200d🔬\n\tmore"
    assert visible(text) == text


def test_one_line():
    assert one_line("a\n# b\t\x1b\x1c c \u2028 d") == "a # b \\x1b c d"
    assert one_line(3) == "3"
