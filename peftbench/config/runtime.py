"""Options that must not change a number: where things run and where they are kept. Never part of an identity."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from peftbench.foundation.cores import available_cores
from peftbench.foundation.errors import brief
from peftbench.foundation.location import default_cache_dir, user_folder
from peftbench.foundation.spec import Spec, option

# more of them outrun any device here, and each holds two batches
MOST_DECODERS = 16
# whether it is here is known once torch is
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]+)?")


@dataclass(frozen=True)
class RuntimeSpec(Spec):
    """`device`: auto, cpu, cuda or cuda:N. `threads`: CPU threads, 0 leaves torch's choice. `matmul`: which library
    multiplies float32 on a CPU: torch's own choice (torch), oneDNN (onednn), or oneDNN on a processor of AMD with
    AVX-512 and torch's choice elsewhere (auto). `attention_grad`: in which type a CPU computes gradients of attention
    in bf16 and fp16 over at most 400 tokens: float32, that of the inputs as torch does (torch), or float32 but on
    processors with AMX (auto); without effect in fp32, on a GPU and under `train.compile`. Like threads these two move
    last bits, and the record says which they were.

    `results` holds the records; `cache` the decoded images (null: the user's cache folder). `on_existing` says what
    to do when the cell has a record: skip it, rerun it (the old record goes to `work/replaced/`; a packed one is
    refused until `pack NAME --unpack`), or error.
    `on_failed` says whether a sweep tries cells again that failed before: skip, or retry; a single cell is always run.
    `save_adapter` keeps the trained tensors.
    A split that would take more than `stream_above_gb` decoded is not cached but decoded anew every epoch, by
    `workers` processes (null: one for each core, 2 to 16; 0: in the main one); neither changes a number. `capture`:
    on CUDA a training step is recorded once as a CUDA graph and replayed where that can be done (auto), or never
    (off); the record says which, and why not. `feature_cache`: what frozen blocks give for each training image is
    kept instead of computed in every epoch, where that repeats bit for bit. auto: in at most half of the free memory;
    a number: in that many GB, on disk in the cache folder where memory is short; off.
    """

    section: ClassVar[str] = "runtime"

    device: str = option("auto")
    threads: int = option(0, ge=0, le=1024)
    matmul: str = option("auto", choices=("auto", "torch", "onednn"))
    attention_grad: str = option("auto", choices=("auto", "torch", "float32"))
    results: str = option("results")
    cache: str | None = option(None)
    workers: int | None = option(None, ge=0, le=1024)
    feature_cache: str = option("auto")
    stream_above_gb: float = option(8.0, ge=0)
    capture: str = option("auto", choices=("auto", "off"))
    on_existing: str = option("skip", choices=("skip", "rerun", "error"))
    on_failed: str = option("skip", choices=("skip", "retry"))
    save_adapter: bool = option(True)
    measure_cost: bool = option(True)
    progress: bool = option(True)
    wandb: str = option("off", choices=("off", "offline", "online"))
    wandb_project: str = option("peftbench")

    def problems(self) -> Sequence[str]:
        empty = [name for name in ("device", "results", "wandb_project") if not getattr(self, name)]
        problems = [f"runtime.{name} must not be empty; leave the word out for its default" for name in empty]
        if self.device and not _DEVICE.fullmatch(self.device):
            problems.append(f"runtime.device '{brief(self.device)}' is not a device; use auto, cpu, cuda or cuda:N")
        if self.feature_cache not in ("auto", "off") and self.feature_gb is None:
            given = f"'{brief(self.feature_cache)}'"
            problems.append(f"runtime.feature_cache must be auto, off or a number of GB, got {given}")
        return problems

    @property
    def decoders(self) -> int:
        """Processes that decode streamed images."""
        return min(max(available_cores(), 2), MOST_DECODERS) if self.workers is None else self.workers

    @property
    def feature_gb(self) -> float | None:
        """The number of GB that `feature_cache` gives; None where it gives none."""
        try:
            value = float(self.feature_cache)
        except ValueError:
            return None
        return value if 0 <= value < math.inf else None

    @property
    def results_root(self) -> Path:
        return user_folder(self.results, "runtime.results")

    @property
    def cache_root(self) -> Path:
        return user_folder(self.cache, "runtime.cache") if self.cache else default_cache_dir()
