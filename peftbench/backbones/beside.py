"""What the file of a backbone's weights holds beside the backbone: the other parts of the model it was released in."""

from __future__ import annotations

from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.checkpoint import read_checkpoint
from peftbench.backbones.layouts import tensors_of
from peftbench.foundation.errors import BadInput


def tensors_beside(backbone: Backbone, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """What the file of a backbone's weights holds under these prefixes, such as SAM's mask decoder; {} without a file.

    Raises `BadInput` where a file holds nothing of the kind.
    """
    path = backbone.weights_path
    if path is None:
        return {}
    found = {name: tensor for name, tensor in tensors_of(read_checkpoint(path)).items() if name.startswith(prefixes)}
    if not found:
        wanted = " and ".join(f"{prefix}*" for prefix in prefixes)
        raise BadInput(f"{path} holds no {wanted}; set backbone.checkpoint to a file of the whole model, as released")
    return found
