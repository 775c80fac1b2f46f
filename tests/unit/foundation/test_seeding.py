from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from peftbench.foundation.device import WORKSPACE, device_answers, pick_device
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.seeding import derive, deterministic, seed_everything, stream


def test_a_stream_repeats_and_differs_from_every_other() -> None:
    names: list[tuple[str | int, ...]] = [(), ("order",), ("order", 0), ("order", 1), ("augment", 1), ("order", "1")]
    seeds = {derive(seed, *name) for seed in (0, 1) for name in names}
    assert len(seeds) == 2 * len(names)
    assert torch.equal(torch.rand(5, generator=stream(3, "head")), torch.rand(5, generator=stream(3, "head")))


def test_the_seed_of_a_stream_is_fixed_for_all_time() -> None:
    # sha256 of '[0,"order",1]', first eight bytes, shifted right by one; computed with the sha256sum command
    assert derive(0, "order", 1) == 0x33A27F56BC0FBFB7 >> 1


def test_streams_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    torch.rand(10, generator=stream(0, "x"))
    assert torch.equal(before, torch.get_rng_state())


def test_seed_everything_repeats_all_three_global_generators() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(2**40 + 7)
    first = draw()
    seed_everything(2**40 + 7)
    assert draw() == first
    seed_everything(2**40 + 8)
    assert draw() != first


def test_deterministic_refuses_kernels_that_do_not_repeat_and_puts_the_flags_back() -> None:
    def flags() -> tuple[bool, bool, bool]:
        filled = torch.utils.deterministic.fill_uninitialized_memory
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, filled

    before = flags()
    with pytest.raises(ZeroDivisionError), deterministic("cpu"):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise ZeroDivisionError
    assert flags() == before


def test_deterministic_on_cuda_sets_the_cublas_workspace_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic("cuda"):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_first_product_on_a_gpu_finds_the_workspace_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)
    assert pick_device("cpu").type == "cpu" and WORKSPACE not in os.environ
    assert pick_device("auto").type == "cuda" and os.environ[WORKSPACE] == ":4096:8"
    # what somebody chose stays
    monkeypatch.setenv(WORKSPACE, ":16:8")
    assert pick_device("cuda:1").index == 1 and os.environ[WORKSPACE] == ":16:8"
    # memory is pinned for, and measured on, the one that was named
    assert chosen == [torch.device("cuda:1")]
    with pytest.raises(ConfigError, match=r"runtime.device=cuda:2: the CUDA devices here are cuda:0 to cuda:1"):
        pick_device("cuda:2")


@pytest.mark.parametrize(("begun", "error", "answers"), [(False, None, True), (True, None, True), (True, 1, False)])
def test_a_gpu_that_an_error_left_without_use_is_noticed(
    monkeypatch: pytest.MonkeyPatch, begun: bool, error: int | None, answers: bool
) -> None:
    def wait() -> None:
        if error:
            raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: begun)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    assert device_answers() is answers
