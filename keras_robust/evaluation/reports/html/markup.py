"""HTML from parts, in which everything is text unless it was made here."""

import html

from keras_robust.evaluation.reports.characters import visible


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()

    @classmethod
    def escape(cls, value):
        """Returns `value` as it is if it is `Markup`, else as text that shows its characters."""
        return value if isinstance(value, cls) else cls(html.escape(visible(value)))


def element(name, /, *children, **attributes):
    """Returns an element; children and values of attributes are text unless they are `Markup`.

    Args:
        name: str, such as `"p"`.
        *children: `Markup` or anything else, shown as its text; `None` is left out.
        **attributes: values; `class_` is `class`, and an underscore within a name is a hyphen.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(visible(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta"):
        return Markup(f"<{name}{given}>")
    inside = "".join(Markup.escape(child) for child in children if child is not None)
    return Markup(f"<{name}{given}>{inside}</{name}>\n")


def table(headings, rows, caption=None):
    """Returns a table whose first cell in every row is the heading of the row.

    Args:
        headings: list of cells; `as_text` makes one for a column of text.
        rows: list of lists of cells. A cell may be a `<td>` or `<th>` element.
        caption: text above the table, or `None`.
    """
    top = (_cell(heading, "th", scope="col") for heading in headings)
    body = (element("tr", _cell(row[0], "th", scope="row"), *map(_cell, row[1:])) for row in rows)
    content = element(
        "table",
        caption and element("caption", caption),
        element("thead", element("tr", *top)),
        element("tbody", *body),
    )
    # A wide table scrolls by itself, with the keyboard too.
    label = caption or headings[0]
    return element("div", content, class_="wide", tabindex="0", role="region", aria_label=label)


def as_text(heading):
    """Returns the heading of a column of text, which is set to the left."""
    return element("th", heading, scope="col", class_="text")


def _cell(cell, kind="td", **attributes):
    return cell if _is_cell(cell) else element(kind, cell, **attributes)


def _is_cell(cell):
    return isinstance(cell, Markup) and cell.startswith(("<td", "<th"))
