"""The notebook runs from top to bottom in its own folder, and shows what its text says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    read = nbformat.read(EXAMPLES / "replay.ipynb", as_version=4)
    client = NotebookClient(read, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}})
    return client.execute()


def printed(notebook: nbformat.NotebookNode) -> str:
    """What the cells print and return, in order."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def test_choosing_finds_more_than_chance_and_less_than_the_oracle(
    notebook: nbformat.NotebookNode,
) -> None:
    text = printed(notebook)
    shares = {
        line.split()[0]: float(line.split()[2])
        for line in text.splitlines()
        if " informative " in line and "coverage" in line
    }
    assert shares["uniform-1"] < shares["dopr-paper"] < shares["dopr"] <= shares["oracle"]


def test_it_is_kept_without_outputs() -> None:
    kept = nbformat.read(EXAMPLES / "replay.ipynb", as_version=4)
    nbformat.validate(kept)
    assert all(not cell.get("outputs") for cell in kept.cells if cell.cell_type == "code")
