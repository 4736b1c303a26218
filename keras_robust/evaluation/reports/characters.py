"""Hidden characters in text from files and names, which could move a cursor or hide text."""

import re

# Control characters, which start the escape sequences of terminals; line separators; marks that
# change the direction of text; and lone surrogates, which cannot be encoded. Tabs and line feeds
# are allowed.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text):
    r"""Returns the text with an escape such as `\x1b` in place of each hidden character."""
    return HIDDEN.sub(lambda found: ascii(found.group())[1:-1], str(text))


def one_line(text):
    """Returns the text in one line, without hidden characters."""
    return visible(" ".join(str(text).split()))
