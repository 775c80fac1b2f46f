"""Launchers: options, what they ask of their cluster, and what they say when it is not there."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from peftbench.config.launcher import LAUNCHERS
from peftbench.foundation.errors import ConfigError, DeviceLost, MissingInput, PeftbenchError
from peftbench.launchers import joblib as joblib_launcher
from peftbench.launchers.joblib import _DEVICE_LOST, Joblib, end, visible_gpus
from peftbench.launchers.ray import Ray
from peftbench.launchers.slurm import Slurm, SlurmWork, queued


def test_there_is_a_file_of_options_for_each_launcher():
    folder = Path(__file__).resolve().parents[3] / "configs" / "launcher"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == LAUNCHERS.names()


@pytest.mark.parametrize(("launcher", "package"), [(Slurm(), "submitit"), (Ray(), "ray")])
def test_a_package_that_is_not_there_is_named_with_its_extra(launcher, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingInput, match=rf"needs the package {package}: pip install 'peftbench\[{launcher.name}\]'"):
        launcher.run(tmp_path / "plan.json", 1)


def test_slurm_is_asked_for_what_the_options_say(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    parameters = Slurm(partition="gpu", timeout_minutes=30, gpus_per_worker=2, mem_gb=8, extra={"exclude": "n1"})
    asked = parameters._parameters()
    assert asked["partition"] == "gpu" and asked["time"] == 30 and asked["gpus_per_node"] == 2
    assert asked["mem"] == "8GB" and "account" not in asked
    assert asked["additional_parameters"] == {"requeue": True, "exclude": "n1"}


def test_slurm_away_from_a_cluster_says_where_to_go(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingInput, match="login node"):
        Slurm().run(tmp_path / "plan.json", 1)


@pytest.mark.parametrize(
    ("out", "err", "code", "expected"),
    [
        ("RUNNING", "", 0, True),
        ("PENDING", "", 0, True),
        ("", "", 0, False),
        ("", "slurm_load_jobs error: Invalid job id specified", 1, False),
        ("", "Unable to contact slurm controller", 1, True),
    ],
)
def test_an_array_is_over_when_the_controller_no_longer_has_it(tmp_path, monkeypatch, out, err, code, expected):
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n[ -n '{out}' ] && echo '{out}'\n[ -n '{err}' ] && echo '{err}' >&2\nexit {code}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert queued("7") is expected


def test_a_requeued_job_goes_on_with_the_same_plan():
    pytest.importorskip("submitit")
    again = SlurmWork("plan.json", 3).checkpoint()
    assert isinstance(again.function, SlurmWork)
    assert (again.function.plan_file, again.function.threads) == ("plan.json", 3)


def test_workers_share_only_the_gpus_this_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


class FakeRay(SimpleNamespace):
    """The calls the launcher makes of Ray. Its first task is lost with `loss`, the others end well."""

    def __init__(self, loss: str) -> None:
        names = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")
        errors = {name: type(name, (Exception,), {}) for name in names}
        super().__init__(exceptions=SimpleNamespace(**errors), asked={}, got=[], loss=errors[loss])

    def init(self, **options: object) -> None:
        self.asked |= options

    def remote(self, **options: object) -> object:
        numbers = iter(range(100))
        return lambda function: SimpleNamespace(remote=lambda *arguments: next(numbers))

    def wait(self, futures: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return futures[:num_returns], futures[num_returns:]

    def get(self, future: int) -> int:
        self.got.append(future)
        if future == 0:
            raise self.loss("it is gone\nand more")
        return 1

    def shutdown(self) -> None:
        self.asked["ended"] = True


@pytest.mark.parametrize("loss", ["WorkerCrashedError", "NodeDiedError", "OutOfMemoryError"])
def test_ray_waits_for_the_other_workers_when_one_is_lost(loss, monkeypatch, tmp_path, capsys):
    ray = FakeRay(loss)
    monkeypatch.setitem(sys.modules, "ray", ray)
    Ray(num_workers=3).run(tmp_path / "plan.json", 9)
    assert ray.got == [0, 1, 2] and ray.asked["ended"]
    assert capsys.readouterr().out == "a Ray worker ended: it is gone\n"


@pytest.mark.parametrize(("address", "asked"), [(None, "local"), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_ray_without_an_address_joins_no_cluster_that_is_there(address, asked, monkeypatch, tmp_path):
    ray = FakeRay("NodeDiedError")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("socket.create_connection", lambda place, timeout: SimpleNamespace(close=lambda: None))
    Ray(address=address).run(tmp_path / "plan.json", 1)
    # None would be RAY_ADDRESS or the cluster that was started last
    assert ray.asked["address"] == asked


@pytest.mark.parametrize(
    ("failure", "raised", "said"),
    [
        (ConnectionError("no"), MissingInput, "no cluster at launcher.address=auto"),
        # what Ray raises for a node that took longer than its half minute
        (Exception("The node timed out.\nMore."), PeftbenchError, "Ray did not start: The node timed out; no cell"),
    ],
)
def test_a_cluster_that_does_not_come_up_is_one_clear_line(failure, raised, said, monkeypatch, tmp_path):
    ray = FakeRay("NodeDiedError")

    def init(**options: object) -> None:
        raise failure

    ray.init = init
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(raised, match=said) as caught:
        Ray().run(tmp_path / "plan.json", 1)
    assert "\n" not in str(caught.value)


def test_an_address_where_nobody_listens_is_said_at_once(monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        # bound and not listening: connections are refused
        monkeypatch.setitem(sys.modules, "ray", FakeRay("NodeDiedError"))
        with pytest.raises(MissingInput, match=f"no cluster at launcher.address=127.0.0.1:{port}"):
            Ray(address=f"127.0.0.1:{port}").run(tmp_path / "plan.json", 1)


def test_options_have_limits():
    with pytest.raises(ConfigError, match=r"launcher\.timeout_minutes must be at least 1, got 0"):
        Slurm(timeout_minutes=0)


@pytest.fixture
def workers_do(monkeypatch, tmp_path):
    """Workers of launcher=joblib that run a line of Python and note themselves in a folder; returns their notes."""

    def run(code: str, **options: int) -> list[str]:
        prelude = "import os, signal, sys, time; from pathlib import Path; folder = Path(sys.argv[1]); "
        prelude += "number = len(list(folder.iterdir())); (folder / str(os.getpid())).touch(); "
        monkeypatch.setattr(joblib_launcher, "_CODE", prelude + code)
        folder = tmp_path / "notes"
        folder.mkdir()
        Joblib(threads=1, **options).run(folder, 10)
        return [path.name for path in folder.iterdir()]

    return run


def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on(workers_do, capsys):
    # the first four kill themselves, whichever they are
    pids = workers_do("os.kill(os.getpid(), signal.SIGKILL) if number < 4 else None", num_workers=2)
    assert len(pids) == 6
    assert capsys.readouterr().out.count("a worker was ended by signal 9 (Killed); another takes its place\n") == 4


def test_restarts_are_counted(workers_do, capsys):
    assert len(workers_do("os.kill(os.getpid(), signal.SIGKILL)", num_workers=2, max_restarts=3)) == 5
    shown = capsys.readouterr().out
    assert shown.count("another takes its place") == 3
    assert shown.count("no more are started (launcher.max_restarts=3)") == 2


def test_a_worker_with_an_error_of_its_own_is_not_started_again(workers_do, capsys):
    assert len(workers_do("sys.exit(2)", num_workers=2)) == 2
    assert capsys.readouterr().out.count("a worker ended with code 2; see its message above") == 2


def test_a_worker_whose_gpu_gives_no_more_answers_is_replaced(workers_do, capsys):
    assert len(workers_do(f"sys.exit({_DEVICE_LOST} if number < 2 else 0)", num_workers=1)) == 3
    assert capsys.readouterr().out.count("a worker ended with code 75; another takes its place\n") == 2


def test_what_a_joblib_worker_says_of_a_lost_gpu(monkeypatch, tmp_path, capsys):
    def lost(*_: object) -> int:
        raise DeviceLost("no more answers")

    monkeypatch.setattr("peftbench.sweep.worker.work", lost)
    monkeypatch.setattr(joblib_launcher, "stop_with", lambda parent: None)
    assert joblib_launcher.main(str(tmp_path), "1", "1") == _DEVICE_LOST
    assert capsys.readouterr().err == "peftbench: no more answers\n"


def test_workers_are_gone_when_the_launcher_is_interrupted(workers_do, monkeypatch):
    def interrupted(launcher: Joblib, workers: object) -> None:
        raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(Joblib, "_watch", interrupted)
    monkeypatch.setattr(joblib_launcher, "end", lambda workers: (started.extend(workers), end(workers)))
    with pytest.raises(KeyboardInterrupt):
        workers_do("time.sleep(60)", num_workers=2)
    assert len(started) == 2 and not any(worker.is_running for worker in started)
