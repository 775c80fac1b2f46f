"""An exported model in Python."""

from __future__ import annotations

from pathlib import Path

from peftbench.adapters.predictor import Predictor


def predictor(path: Path | str, checkpoint: Path | str | None = None, device: str = "auto") -> Predictor:
    """The model of a file that `export` or `advise` wrote: call it with image files or folders.

        model = peftbench.predictor("model.safetensors")
        model("photo.jpg")[0].label

    checkpoint: the backbone's weights, where they neither ship with the package nor come from timm. Raises
    `MissingInput` and `BadInput`.
    """
    return Predictor(path, checkpoint, device)
