"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from peftbench.foundation.device import WORKSPACE, WORKSPACE_SIZE
from peftbench.foundation.seeding import seed_everything

# before a test multiplies on a GPU: torch looks at it once, and some tests ask for deterministic products later
os.environ.setdefault(WORKSPACE, WORKSPACE_SIZE)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real weights and data that are not part of the repository; tests that need it skip without it."""
    folder = Path(os.environ.get("PEFTBENCH_SHARED", REPOSITORY / ".." / "shared"))
    if not folder.is_dir():
        pytest.skip("set PEFTBENCH_SHARED to the folder with the real weights and data")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`command("leaderboard", "--results", DIR)` is `python -m peftbench leaderboard --results DIR`: its exit code."""
    from peftbench.cli.main import main

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["peftbench", *map(str, words)])
        return main()

    return call


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as on a pipe: parallel test runs name a width of their own."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # ahead of its fixtures: what a test draws does not depend on the tests before it
    seed_everything(0)
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


# One method of each kind of change to a network, on a plain transformer: contracts of the quick tier.
_KINDS = {"linear", "bitfit", "lora", "ssf", "adaptformer", "vpt_deep", "lst", "gps"}


# The usual run takes contracts by lot, always the same ones; PEFTBENCH_THOROUGH=1 asks for all (`make test-thorough`),
# and so does whoever chooses by -k: a method's author sees all of its contracts.
# On a plain transformer every method has every contract but the dear ones of _SHARES, of which one method in so many;
# of Swin, ConvNeXt and neither a method gets one for each contract; of each variant of a network one method in
# _VARIANT_SHARE.
_BY_LOT = {
    "test_methods.py",
    "test_steps.py",
    "test_let_go.py",
    "test_frozen_work.py",
    "test_last_block.py",
    "test_unbinding.py",
    "test_dense.py",
    "test_method_options.py",
    "test_as_graphs.py",
    "test_answers.py",
    "test_compose.py",
}
_ONE_OF = ("swin", "convnext", "neither")
_VARIANTS = {
    *("vit_avg", "vit_registers", "vit_layerscale", "vit_qknorm", "vit_distilled", "vit_prenorm"),
    *("eva_split", "beit", "convnext_conv_mlp"),
}
_VARIANT_SHARE = 12
_SHARES = {
    "test_blocks_computed_again_change_no_bit": 6,
    "test_work_can_be_counted_and_is_no_less_than_the_backbones": 4,
    "test_steps_done_again_without_python_are_the_steps_unless_the_method_says_otherwise": 3,
    "test_gradient_checkpointing_gives_the_same_gradients": 3,
    "test_a_step_of_a_method_keeps_nothing_of_its_graph": 6,
    "test_trainable_tensors_alone_restore_the_model": 2,
    "test_train_and_eval_copies_and_bf16": 2,
    "test_frozen_work_is_frozen": 2,
    "test_loss_and_gradients_are_those_of_the_whole_block": 2,
    "test_gradients_have_the_same_bits": 4,
    "test_a_program_takes_any_number_of_images": 2,
    "test_onnx_takes_any_number_of_images_or_says_what_does": 2,
    "test_a_bad_input_is_answered": 2,
    "test_a_tree_is_that_of_a_whole_composition_by_hydra": 2,
}


def _left_out(item: pytest.Item) -> bool:
    if item.get_closest_marker("thorough"):
        return True
    if item.path.name not in _BY_LOT or not hasattr(item, "callspec"):
        return False
    # by the test's own name, which parallel processes agree on: a parameter's text may hold an address in memory
    values = sorted(item.callspec.id.split("-"))
    network = item.callspec.params.get("backbone")
    if network in _ONE_OF:
        others = [item.originalname, *(value for value in values if value != network)]
        return network != _ONE_OF[_lot(others, len(_ONE_OF))]
    share = _VARIANT_SHARE if network in _VARIANTS else _SHARES.get(getattr(item, "originalname", ""), 1)
    return _lot(values, share) > 0


def _lot(values: list[str], share: int) -> int:
    return zlib.crc32(" ".join(values).encode()) % share


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`-m quick`: what a contributor runs at each change: units, import rules, contracts of one method of each kind."""
    for item in items:
        if hasattr(item, "callspec") and any(
            isinstance(value, set | frozenset) and len(value) > 1 and str(value) in item.name
            for value in item.callspec.params.values()
        ):
            # the order of a set of words differs from process to process, and parallel runs compare names
            raise pytest.UsageError(f"{item.nodeid} is named after a set: give a list, or an id of its own")
    if not os.environ.get("PEFTBENCH_THOROUGH") and not config.option.keyword:
        left_out = [item for item in items if _left_out(item)]
        items[:] = [item for item in items if not _left_out(item)]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        place = item.path.relative_to(REPOSITORY).parts[:2] if item.path.is_relative_to(REPOSITORY) else ()
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        contract = parameters.get("backbone") == "vit_cls" and not _KINDS.isdisjoint(map(str, parameters.values()))
        if not item.get_closest_marker("slow") and (contract or place in _QUICK):
            item.add_marker(pytest.mark.quick)


_QUICK = {("tests", "unit"), ("tests", "test_imports.py")}
