"""pyplot for pictures that are the same file when they show the same; loaded when one is drawn."""

from typing import Any

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999", "#000000")


def pyplot() -> Any:
    """matplotlib.pyplot without a screen, with fixed identifiers in SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "dopr"
    return plt


def save(figure: Any, output: Any) -> None:
    """Writes a figure without a date and lets go of it."""
    figure.savefig(output, metadata={"Date": None})
    pyplot().close(figure)
