"""The picture of `benchmarks.certified_accuracy`: what is proven, and what attacks leave.

Both are of the same images, so that the one is never above the other.
"""

from matplotlib.figure import Figure

_TITLES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
_NORMS = ("L2", "Linf")
_EXTENT = {"L2": 1.5, "Linf": 0.25}


def draw(rows, path):
    """Draws certified and attacked accuracy over the radius, a panel for each data set and norm.

    Args:
        rows: dict of the rows of the benchmark by name.
        path: str or `pathlib.Path` of a picture.
    """
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    panels = figure.subplots(len(_TITLES), len(_NORMS), sharey=True)
    for line, (dataset, title) in zip(panels, _TITLES.items(), strict=True):
        for axes, norm in zip(line, _NORMS, strict=True):
            own = {
                name.removeprefix(f"{dataset}_"): row
                for name, row in rows.items()
                if name.startswith(dataset) and row["norm"] == norm
            }
            _draw_panel(axes, own)
            size = max((row["nearest"]["examples"] for row in own.values()), default=0)
            axes.set_title(f"{title}, {norm}, {size} images")
            axes.set_xlabel(f"radius, {norm}")
            axes.set_xlim(0.0, _EXTENT[norm])
            axes.set_ylim(0.0, 1.0)
            axes.grid(alpha=0.2)
        line[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=150)


def _draw_panel(axes, rows):
    for index, (name, row) in enumerate(rows.items()):
        proven, found = row["nearest"]["certified_curve"], row["nearest"]["curve"]
        x, y = proven["radii"], proven["certified_accuracy"]
        shared = {"color": f"C{index}"}
        axes.step([*x, x[-1]], [*y, 0.0], where="pre", label=f"{name}: certified", **shared)
        axes.step(
            found["epsilons"],
            found["robust_accuracy"],
            where="post",
            linestyle=":",
            label=f"{name}: attacked",
            **shared,
        )
    if rows:
        axes.legend(fontsize="small")
