"""One input or target of all samples of a split, kept where reading it costs least, given batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftbench.train.readers import Drawn, Reader, read_ahead

Values: TypeAlias = NDArray[np.generic] | Tensor | Reader

# what may lie on a GPU of each input: this, or a share of its memory where that is more
_RESIDENT_BYTES = 2**30
_RESIDENT_SHARE = 8


def resident_bytes(device: torch.device) -> int:
    """How large an array may be to lie on a GPU as a whole."""
    return max(_RESIDENT_BYTES, torch.cuda.get_device_properties(device).total_memory // _RESIDENT_SHARE)


class Stored:
    """`values`: [num_samples, ...], possibly memory-mapped, never written to; or a `Reader` that decodes them.

    A tensor is put on the device; so is, on CUDA, an array of at most 1 GiB or an eighth of the GPU's memory. A reader
    works in `workers` processes.
    """

    def __init__(self, values: Values, device: torch.device, workers: int = 0) -> None:
        self.shape = tuple(values.shape)
        self.is_pixels = values.dtype in (np.uint8, torch.uint8) and len(self.shape) in (4, 5)
        self.read_anew = not isinstance(values, (np.ndarray, Tensor))
        self.draws_frames = bool(getattr(values, "draws_frames", False))
        self._device, self._workers = device, workers
        self._values: Values = values
        if isinstance(values, Tensor):
            self._values = values.to(device)
        elif isinstance(values, np.ndarray) and device.type == "cuda" and values.nbytes <= resident_bytes(device):
            # np.array copies: torch warns about read-only memory.
            self._values = torch.as_tensor(np.array(values)).to(device)

    @property
    def resident(self) -> bool:
        """Whether the values are on the device as a whole."""
        return isinstance(self._values, Tensor)

    def at(self, index: Tensor) -> Tensor:
        """Resident values at `index`, as `batches` gives them."""
        assert isinstance(self._values, Tensor), "these values are not on the device"
        values = self._values[index]
        return values.float() if values.is_floating_point() else values

    def batches(self, indices: list[Tensor], drawn: Drawn) -> Iterator[Tensor]:
        """The values of each batch of `indices` on the device, as stored, except that floats become float32.

        `indices` are on the device where the values are resident, else on the host. `drawn` is for a reader.
        """
        stored = self._values
        found: Iterable[Tensor]
        if isinstance(stored, Tensor):
            found = (stored[index] for index in indices)
        elif isinstance(stored, np.ndarray):
            found = (torch.from_numpy(np.asarray(stored[index.numpy()])) for index in indices)
        else:
            found = read_ahead(stored, indices, drawn, self._workers)
        for values in found:
            if self._device.type == "cuda" and not values.is_cuda:
                values = values.pin_memory()
            values = values.to(self._device, non_blocking=True)
            yield values.float() if values.is_floating_point() else values
