"""Wrong words on the command line: one message that names the option, and exit code 2."""

from __future__ import annotations

import io

import pytest

from peftbench.foundation.errors import PeftbenchError
from peftbench.sweep import attempt


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method=lroa"], ["method has no choice 'lroa'", "'lora'"]),
        (["metod=lora"], ["unknown option metod", "'method'"]),
        (["method=lora", "method.rnak=3"], ["unknown option method.rnak", "'rank'"]),
        (["method=lora", "+method.rnak=3"], ["unknown option method.rnak", "'rank'"]),
        (["method=lora", "method.rank=0"], ["method.rank must be at least 1, got 0"]),
        (["method=lora", "method.rank=abc"], ["method.rank must be an integer, got 'abc'"]),
        (["method=lora", "method.targets=[q,w]"], ["method.targets cannot be 'w'"]),
        (
            ["method=lora", "method.rank=0", "optim.lr=fast", "train.epochz=3", "seed=-1"],
            ["method.rank must be", "optim.lr must be a number", "unknown option train.epochz", "seed must be"],
        ),
        (["optim.warmup_epochs=100"], ["optim.warmup_epochs (100) must be smaller than train.epochs (100)"]),
        (["train.select=best_val"], ["train.select=best_val needs protocol.val_split=val200"]),
        (["dataset=vtab/caltech11"], ["dataset has no choice 'vtab/caltech11'", "'vtab/caltech101'"]),
        (["dataset=vtab/dtd", "dataset.root=nowhere"], ["dataset.root", "nowhere"]),
        (["backbone=vit_b16_in21k_npz"], ["backbone.checkpoint must name a file", "ViT-B_16.npz"]),
        (["backbone.checkpoint=none.safetensors"], ["backbone.checkpoint=none.safetensors is not a file"]),
        (["runtime.device=cdua"], ["runtime.device 'cdua'"]),
        (["objective=gits"], ["objective has no choice 'gits'", "'gist'"]),
        (["objective=gist", "objective.temprature=2"], ["unknown option objective.temprature", "'temperature'"]),
        (["objective=pesf_kd", "objective.temperature=0"], ["objective.temperature must be greater than 0, got 0"]),
        (["+extra=1"], ["unknown option extra"]),
        (["method=lora", "what"], ["'what' is not of the form"]),
        (["leaderbord"], ["unknown command 'leaderbord'", "'leaderboard'"]),
    ],
)
def test_wrong_words_are_named(run, capsys, words, parts):
    assert run(*words, fast=False) == 2
    errors = capsys.readouterr().err
    assert all(part in errors for part in parts), errors
    assert "Traceback" not in errors


def test_vpt_is_an_accepted_name_for_vpt_deep(run, capsys):
    assert run("method=vpt", "--cfg", "job", fast=False) == 0
    assert "name: vpt_deep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["method=repattn"], "name: repadapter_attn"),
        (["method=repblock"], "name: repadapter"),
        (["method=adapter_houlsby", "method.init=xavier"], "init: xavier"),
        (["method=lora", "method.targets=[q,k,v,proj,fc1,fc2]"], "- fc2"),
        (["method=krona_b_res"], "name: krona_b_res"),
    ],
)
def test_the_words_of_the_papers_are_understood(run, capsys, words, shown):
    assert run(*words, "--cfg", "job", fast=False) == 0
    assert shown in capsys.readouterr().out


def test_help_shows_what_is_needed_first_and_the_rest_on_demand(run, capsys):
    assert run("--help", fast=False) == 0
    first = capsys.readouterr().out
    assert first.count("  python -m peftbench ") == 10 and max(map(len, first.splitlines())) <= 80
    assert run("--help", "groups", fast=False) == 0
    assert "vit_micro" in (groups := capsys.readouterr().out) and "adaptformer" in groups
    assert run("--help", "options", "method=lora", fast=False) == 0
    assert "weight_decay" in (options := capsys.readouterr().out) and "targets" in options
    assert run("--help", "commands", fast=False) == 0
    assert "how far its grid is" in capsys.readouterr().out


def test_not_applicable_is_said_before_training(run, capsys, tmp_path):
    words = [
        "method=vpt",
        "backbone=timm",
        "backbone.model=convnext_atto",
        "backbone.weights=none",
        "backbone.img_size=32",
    ]
    assert run(*words) == 3
    assert "vpt_deep" in capsys.readouterr().err


def test_a_run_on_a_terminal_says_at_once_what_starts(run, monkeypatch):
    """Torch takes seconds to import; the first word does not wait for it."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    said: list[str] = []

    def stopped(*cell: object) -> None:
        said.append(terminal.getvalue())
        raise PeftbenchError("stopped")

    monkeypatch.setattr(attempt, "run_claimed", stopped)
    monkeypatch.setattr("sys.stderr", terminal)
    words = ("dataset=digits", "method=linear", "seed=3", "runtime.progress=true")
    assert run(*words, fast=False) == 1
    assert said == ["starting linear on digits, vit_micro, seed 3\n"]
    assert run(*words[:-1], "runtime.progress=false", fast=False) == 1
    assert "starting" not in terminal.getvalue().removeprefix(said[0])
