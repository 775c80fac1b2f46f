"""Several workers on this machine, through joblib's process pool."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.config.launcher import LAUNCHERS, Launcher, needs
from peftbench.foundation.cores import available_cores
from peftbench.foundation.spec import option


@LAUNCHERS.add("joblib")
@dataclass(frozen=True)
class Joblib(Launcher):
    """`num_workers`: 0 is one for each GPU, or for every `threads` cores where there is none.

    `threads`: CPU threads of each worker, 0 divides the cores. Bits depend on the number of threads of a product, so
    name it where cells of several machines are compared bit for bit. Each worker sees one GPU, in turn.
    """

    num_workers: int = option(0, ge=0)
    threads: int = option(0, ge=0)

    def run(self, plan_file: Path, num_cells: int) -> None:
        try:
            import joblib
            from joblib.externals.loky.process_executor import TerminatedWorkerError
        except ImportError as error:
            raise needs("joblib", "joblib") from error
        gpus = visible_gpus()
        cores = available_cores()
        num_workers = min(self.num_workers or len(gpus) or max(1, cores // (self.threads or 1)), max(num_cells, 1))
        threads = self.threads or max(1, cores // num_workers)
        tasks = [(str(plan_file), threads, gpus[index % len(gpus)] if gpus else None) for index in range(num_workers)]
        for _ in range(max(num_cells, 1)):
            try:
                # one task a worker: with batches, one process could get the tasks of two
                joblib.Parallel(n_jobs=num_workers, batch_size=1, pre_dispatch="all")(
                    joblib.delayed(_work)(*task) for task in tasks
                )
                return
            except TerminatedWorkerError:
                # The death of one worker ends the pool. A new pool takes over the dead one's cells, and a cell that
                # ends its workers is noted as failed after a few of them.
                continue


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index in range(torch.cuda.device_count())]


def _work(plan_file: str, threads: int, gpu: str | None) -> Any:
    if gpu is not None:
        # read when CUDA starts, which is at the first cell
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    from peftbench.sweep.worker import work

    return work(plan_file, threads)
