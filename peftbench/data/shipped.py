"""What comes with an installed dependency: files, and a data set of them for whoever has none yet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# what a message about absent data names instead (`MissingInput.instead`)
NO_FILES_NEEDED = "dataset=digits needs no files."


def of_scikit_learn(folder: str, name: str) -> Path:
    """A file of the data that scikit-learn ships; it is found without importing that, which takes seconds."""
    found = find_spec("sklearn")
    assert found is not None and found.origin is not None, "scikit-learn is a dependency"
    return Path(found.origin).parent / "datasets" / folder / name
