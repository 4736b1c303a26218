"""HTML from parts, in which everything is text unless it was made here."""

import html


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()

    @classmethod
    def escape(cls, value):
        """Returns `value` as it is if it is `Markup`, else as text that shows its characters."""
        return value if isinstance(value, cls) else cls(html.escape(str(value)))


def element(name, *children, **attributes):
    """Returns an element; children and values of attributes are text unless they are `Markup`.

    Args:
        name: str, such as `"p"`.
        *children: `Markup` or anything else, shown as its text; `None` is left out.
        **attributes: values; `class_` is `class`, and an underscore within a name is a hyphen.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
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
        headings: list of cells.
        rows: list of lists of cells. Numbers in text are set to the right, as all but the first.
        caption: text above the table, or `None`.
    """
    top = (element("th", heading, scope="col") for heading in headings)
    body = (
        element("tr", element("th", row[0], scope="row"), *(_cell(cell) for cell in row[1:]))
        for row in rows
    )
    content = element(
        "table",
        caption and element("caption", caption),
        element("thead", element("tr", *top)),
        element("tbody", *body),
    )
    # A wide table scrolls by itself, with the keyboard too.
    label = caption or headings[0]
    return element("div", content, class_="wide", tabindex="0", role="region", aria_label=label)


def _cell(cell):
    return cell if isinstance(cell, Markup) and cell.startswith("<td") else element("td", cell)
