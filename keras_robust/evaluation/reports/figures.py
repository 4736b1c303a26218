"""Matplotlib figures and images as parts of an HTML page; matplotlib is optional."""

import base64
import importlib
import io
import re

import numpy as np

from keras_robust.evaluation.reports.html.markup import Markup

# Placeholders in a figure, which become the colors of the page: it may be light or dark.
INK = "#010203"
ACCENT = "#040506"
WARNING = "#070809"
_COLOURS = {INK: "currentColor", ACCENT: "var(--accent)", WARNING: "var(--warning)"}


def make_figure(**arguments):
    """Returns a `matplotlib.figure.Figure`."""
    return _load("matplotlib.figure").Figure(**arguments)


def to_svg(figure, description):
    """Returns a figure as an `<svg>` element; `description` is its label for screen readers."""
    file = io.StringIO()
    # Keep text as text, and give equal figures equal bytes.
    settings = {"svg.fonttype": "none", "svg.hashsalt": description}
    with _load("matplotlib").rc_context(settings):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    # An HTML page must not contain the XML declaration.
    svg = svg[svg.index("<svg") :]
    # The style sheet of a figure would apply to the whole page, whose own has the same rule.
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    # Ids must be unique in a page with several figures. Nothing refers to the ids of groups, so
    # they can go.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    box = re.search(r'viewBox="[^"]*"', svg).group()
    for colour, shown in _COLOURS.items():
        svg = svg.replace(colour, shown)
    svg = re.sub(r"<svg[^>]*>", "", svg, count=1)
    return Markup(f'<svg {box} role="img" aria-label="{Markup.escape(description)}">{svg}')


def to_png(image):
    """Returns an image with values in `[0, 1]` as a `data:` URL, with one pixel per value."""
    file = io.BytesIO()
    pixels = np.rint(255.0 * np.asarray(image)).astype("uint8")
    # matplotlib would apply a color map to an image without channels.
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    # Without the version of matplotlib, equal images have equal bytes.
    _load("matplotlib.image").imsave(file, pixels, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _load(name):
    """Returns a module of matplotlib, or raises an ImportError that names the package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib. Install it with: pip install 'keras_robust[plots]'"
        ) from error
