"""HTML markup, which escapes every text that was not built here."""

import html

from keras_robust.evaluation.reports.characters import visible


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()

    @classmethod
    def escape(cls, value):
        """Returns `Markup` unchanged, and any other value as escaped text."""
        return value if isinstance(value, cls) else cls(html.escape(visible(value)))


def element(name, /, *children, **attributes):
    """Returns an element; children and values of attributes are text unless they are `Markup`.

    Args:
        name: str, such as `"p"`.
        *children: `Markup`, or any other value, which is shown as text; `None` is left out.
        **attributes: values. `class_` sets `class`, and other underscores become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(visible(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    # These elements have no content and no end tag.
    if name in ("img", "meta"):
        return Markup(f"<{name}{given}>")
    inside = "".join(Markup.escape(child) for child in children if child is not None)
    return Markup(f"<{name}{given}>{inside}</{name}>\n")


def table(headings, rows, caption=None):
    """Returns a table whose first cell in every row is the heading of the row.

    Args:
        headings: list of cells; use `as_text` for the heading of a column of text.
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
    # A wide table scrolls without the page, and `tabindex` lets the keyboard scroll it.
    label = caption or headings[0]
    return element("div", content, class_="wide", tabindex="0", role="region", aria_label=label)


def as_text(heading):
    """Returns the heading of a column of text, which is left-aligned."""
    return element("th", heading, scope="col", class_="text")


def _cell(cell, kind="td", **attributes):
    return cell if _is_cell(cell) else element(kind, cell, **attributes)


def _is_cell(cell):
    return isinstance(cell, Markup) and cell.startswith(("<td", "<th"))
