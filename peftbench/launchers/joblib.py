"""Several workers on this machine, each a process of its own that is started again when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from peftbench.config.launcher import LAUNCHERS, Launcher
from peftbench.foundation.cores import available_cores
from peftbench.foundation.errors import DeviceLost, PeftbenchError, error_line
from peftbench.foundation.spec import option
from peftbench.foundation.stopping import INTERRUPTED, leave_by_signals, stop_by_signals, stop_with

_CODE = "import sys; from peftbench.launchers.joblib import main; sys.exit(main(*sys.argv[1:]))"
_LOOK_SECONDS = 0.2
# how a worker ends whose GPU gives no more answers: another process can go on
_DEVICE_LOST = 75


@LAUNCHERS.add("joblib")
@dataclass(frozen=True)
class Joblib(Launcher):
    """`num_workers`: 0 is one for each GPU, or for every `threads` cores where there is none.

    `threads`: CPU threads of each worker, 0 divides the cores. Bits depend on the number of threads of a product, so
    name it where cells of several machines are compared bit for bit. Each worker sees one GPU, in turn. A worker that
    dies (killed, out of memory) is replaced at once, `max_restarts` times in all; the others are not disturbed.
    """

    num_workers: int = option(0, ge=0)
    threads: int = option(0, ge=0)
    max_restarts: int = option(100, ge=0)

    def run(self, plan_file: Path, num_cells: int) -> None:
        gpus = visible_gpus()
        cores = available_cores()
        num_workers = min(self.num_workers or len(gpus) or max(1, cores // (self.threads or 1)), max(num_cells, 1))
        threads = self.threads or max(1, cores // num_workers)
        workers = [
            Worker(plan_file, threads, gpus[number % len(gpus)] if gpus else None) for number in range(num_workers)
        ]
        try:
            for worker in workers:
                worker.start()
            self._watch(workers)
        finally:
            end(workers)

    def _watch(self, workers: list[Worker]) -> None:
        """Wait until every worker has ended of itself, starting those again that died."""
        num_restarts = 0
        while any(worker.is_running for worker in workers):
            time.sleep(_LOOK_SECONDS)
            for worker in workers:
                died = worker.death()
                if died is None:
                    continue
                if worker.failed:
                    print(f"a worker {died}; see its message above", flush=True)
                    continue
                if num_restarts == self.max_restarts:
                    print(f"a worker {died}; no more are started (launcher.max_restarts={num_restarts})", flush=True)
                    continue
                num_restarts += 1
                print(f"a worker {died}; another takes its place", flush=True)
                worker.start()


@dataclass
class Worker:
    """One process that works on a plan, now or again."""

    plan_file: Path
    threads: int
    gpu: str | None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    failed: bool = field(default=False, init=False)  # by an error of its own, which would come again

    def start(self) -> None:
        # read when CUDA starts, which is at the first cell
        environment = os.environ | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})
        words = [sys.executable, "-c", _CODE, str(self.plan_file), str(self.threads), str(os.getpid())]
        self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def death(self) -> str | None:
        """How the process died, said once; None while it runs and when it ended of itself."""
        if self.process is None or self.process.poll() in (None, 0):
            return None
        code, self.process = self.process.returncode, None
        self.failed = code > 0 and code not in (INTERRUPTED, _DEVICE_LOST)
        return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"


def end(workers: list[Worker]) -> None:
    """Interrupt what still runs, so that cells are given up, and leave no process behind."""
    running = [worker.process for worker in workers if worker.process is not None and worker.is_running]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + 10
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(plan_file: str, threads: str, parent: str) -> int:
    """The process of one worker. It ends with its parent, which alone would start it again."""
    leave_by_signals()
    stop_with(int(parent))
    from peftbench.sweep.worker import work

    stop_by_signals()
    try:
        work(plan_file, int(threads))
    except PeftbenchError as error:
        print(error_line(error), file=sys.stderr)
        return _DEVICE_LOST if isinstance(error, DeviceLost) else error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index in range(torch.cuda.device_count())]
