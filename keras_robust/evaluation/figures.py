"""Matplotlib where there is one, and its figures as parts of an HTML page."""

import base64
import io
import re

from keras_robust.evaluation.markup import Markup

# Drawn in these colours, and shown in those of the page, which may be light or dark.
INK = "#010203"
ACCENT = "#040506"
WARNING = "#070809"
_COLOURS = {INK: "currentColor", ACCENT: "var(--accent)", WARNING: "var(--warning)"}


def make_figure(**arguments):
    """Returns a `matplotlib.figure.Figure`, or raises an ImportError that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib. Install it with: pip install 'keras_robust[plots]'"
        ) from error
    return Figure(**arguments)


def to_svg(figure, description):
    """Returns a figure as an `<svg>` element for a page; `description` is for those who read it."""
    import matplotlib

    file = io.StringIO()
    # Text stays text, and the same figure has the same bytes.
    settings = {"svg.fonttype": "none", "svg.hashsalt": description}
    with matplotlib.rc_context(settings):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    # A page has several figures, and an id only once; groups are never referred to.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    box = re.search(r'viewBox="[^"]*"', svg).group()
    for colour, shown in _COLOURS.items():
        svg = svg.replace(colour, shown)
    svg = re.sub(r"<svg[^>]*>", "", svg, count=1)
    return Markup(f'<svg {box} role="img" aria-label="{Markup.escape(description)}">{svg}')


def to_png(image):
    """Returns an image with values in `[0, 1]`, one pixel a pixel, as a `data:` address."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, format="png", vmin=0.0, vmax=1.0, cmap="gray")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
