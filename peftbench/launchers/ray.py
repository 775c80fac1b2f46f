"""Workers as tasks of a Ray cluster."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from peftbench.config.launcher import LAUNCHERS, Launcher, needs
from peftbench.foundation.errors import DeviceLost, MissingInput, PeftbenchError
from peftbench.foundation.spec import option


@LAUNCHERS.add("ray")
@dataclass(frozen=True)
class Ray(Launcher):
    """`num_workers` tasks on the cluster at `address` (`auto`: the one of this host; null: a cluster of this command).

    Every node needs this package and the folders that the words name, on a shared file system. Ray gives each task
    its GPUs, and starts a task whose process died again, at most `max_retries` times.
    """

    address: str | None = option("auto")
    num_workers: int = option(2, ge=1)
    cpus_per_worker: int = option(1, ge=1)
    gpus_per_worker: float = option(0.0, ge=0)
    max_retries: int = option(20, ge=0)

    def run(self, plan_file: Path, num_cells: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise needs("ray", "ray") from error
        self._connect(ray)
        try:
            task = ray.remote(
                num_cpus=self.cpus_per_worker,
                num_gpus=self.gpus_per_worker,
                max_retries=self.max_retries,
            )(_work)
            # what is left when a worker, its node or its memory is gone and no retry remains: the others go on
            lost = (
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.NodeDiedError,
                ray.exceptions.OutOfMemoryError,
            )
            num_workers = min(self.num_workers, max(num_cells, 1))
            futures: list[Any] = [task.remote(str(plan_file), self.cpus_per_worker) for _ in range(num_workers)]
            while futures:
                ended, futures = ray.wait(futures, num_returns=1)
                for future in ended:
                    try:
                        ray.get(future)
                    except lost as error:
                        print(f"a Ray worker ended: {str(error).splitlines()[0]}", flush=True)
        finally:
            ray.shutdown()

    def _connect(self, ray: ModuleType) -> None:
        """Join the cluster or start one. Raises `MissingInput` when there is none, `PeftbenchError` when it fails."""
        try:
            _knock(self.address)
            # "local" and not None, which joins whatever cluster RAY_ADDRESS or an earlier 'ray start' names
            ray.init(
                address=self.address or "local",
                log_to_driver=False,
                include_dashboard=None if self.address else False,
            )
        except ConnectionError as error:
            raise MissingInput(
                f"launcher=ray finds no cluster at launcher.address={self.address}; start one with 'ray start --head', "
                "let this command have its own with launcher.address=null, or, where the cluster asks for a token, "
                "set RAY_AUTH_MODE=token"
            ) from error
        except Exception as error:
            # Ray says by a plain Exception that a node took longer than its fixed half minute
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            raise PeftbenchError(
                f"launcher=ray: Ray did not start: {reason}; no cell was begun. Run the command again when the machine "
                "is less busy, or use launcher=joblib, which needs no cluster"
            ) from error


def _knock(address: str | None) -> None:
    """Raises `ConnectionError` when nobody listens at `host:port`: Ray itself would try for more than ten minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error


def _work(plan_file: str, threads: int) -> int:
    from peftbench.sweep.worker import work

    try:
        return work(plan_file, threads)
    except DeviceLost:
        # the failed cell has its note; Ray starts a task anew whose process died, and no other
        os._exit(1)
