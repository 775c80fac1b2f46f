"""Workers as a SLURM job array, through submitit."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.config.launcher import LAUNCHERS, Launcher, needs
from peftbench.foundation.errors import MissingInput, PeftbenchError
from peftbench.foundation.spec import option

POLL_SECONDS = 5.0


@LAUNCHERS.add("slurm")
@dataclass(frozen=True)
class Slurm(Launcher):
    """An array of `num_workers` jobs, each a worker on the whole grid: a short queue needs no more jobs than GPUs.

    `timeout_minutes` is a job's time limit. SLURM warns a job `warning_seconds` before that and before preemption;
    the worker then gives up its cell and is requeued, at most `max_requeues` times after time limits. `extra` holds
    further sbatch options, e.g. `launcher.extra.exclude=node7`; `setup` shell lines to run first on the node.
    With `wait=false` the command ends once the jobs are queued. Interrupting it leaves the jobs alone.
    """

    num_workers: int = option(4, ge=1)
    partition: str | None = option(None)
    account: str | None = option(None)
    qos: str | None = option(None)
    timeout_minutes: int = option(240, ge=1)
    warning_seconds: int = option(90, ge=1)
    max_requeues: int = option(20, ge=0)
    gpus_per_worker: int = option(0, ge=0)
    cpus_per_worker: int = option(4, ge=1)
    mem_gb: int = option(0, ge=0)
    extra: dict[str, Any] = option({})
    setup: list[str] = option([])
    wait: bool = option(True)

    def run(self, plan_file: Path, num_cells: int) -> None:
        try:
            import submitit
        except ImportError as error:
            raise needs("submitit", "slurm") from error
        if submitit.SlurmExecutor.affinity() <= 0:
            raise MissingInput("launcher=slurm: there is no srun here; run this on a login node of the cluster")
        folder = plan_file.parent / "slurm"
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=self.max_requeues)
        executor.update_parameters(**self._parameters())
        num_workers = min(self.num_workers, max(num_cells, 1))
        try:
            with executor.batch():
                jobs = [executor.submit(SlurmWork(str(plan_file), self.cpus_per_worker)) for _ in range(num_workers)]
        except submitit.core.utils.FailedJobError as error:
            raise PeftbenchError(f"SLURM did not take the jobs: {str(error).splitlines()[-1]}") from error
        array = jobs[0].job_id.split("_")[0]
        print(f"SLURM job {array}: {num_workers} workers, logs in {folder}; scancel {array} stops them", flush=True)
        if not self.wait:
            return
        try:
            while queued(array):
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            print(f"the jobs go on: squeue -j {array} shows them, scancel {array} stops them", flush=True)
            raise

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "job_name": "peftbench",
            "time": self.timeout_minutes,
            "signal_delay_s": self.warning_seconds,
            "cpus_per_task": self.cpus_per_worker,
            "array_parallelism": self.num_workers,
            "additional_parameters": {"requeue": True, **self.extra},
            "setup": self.setup or None,
        }
        chosen = {"partition": self.partition, "account": self.account, "qos": self.qos}
        parameters |= {name: value for name, value in chosen.items() if value}
        if self.gpus_per_worker:
            parameters["gpus_per_node"] = self.gpus_per_worker
        if self.mem_gb:
            parameters["mem"] = f"{self.mem_gb}GB"
        return parameters


def queued(array: str) -> bool:
    """Whether a job of the array waits or runs. Asks the controller: many clusters keep no accounting for sacct."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={array}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return bool(result.stdout.strip())
    # an array that ended a while ago is forgotten; any other error is a controller that is busy or restarts
    return "Invalid job id" not in result.stderr


class SlurmWork:
    """What a job runs. After a warning, submitit asks `checkpoint` what the requeued job shall run: the same again.

    Finished cells have their records by then, so that the same again is the rest.
    """

    def __init__(self, plan_file: str, threads: int) -> None:
        self.plan_file, self.threads = plan_file, threads

    def __call__(self) -> int:
        from peftbench.sweep.worker import work

        return work(self.plan_file, self.threads)

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(SlurmWork(self.plan_file, self.threads))
