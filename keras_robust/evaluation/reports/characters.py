"""Text from files and from names, as it may be shown: nothing in it moves a cursor or hides."""

import re

# Control characters, among them the escape sequences of terminals; line separators; marks that turn
# the direction of what follows; halves of characters, which cannot be written. Tabs and ends of
# lines are none of them.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text):
    r"""Returns a text with an escape such as `\x1b` for each hidden character."""
    return HIDDEN.sub(lambda found: ascii(found.group())[1:-1], str(text))


def one_line(text):
    """Returns a text in one line, with nothing hidden in it."""
    return visible(" ".join(str(text).split()))
