"""What contradicts between sections is said where a cell is planned, in outline and loaded alike, ahead of any data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.config.compose import Trees
from peftbench.config.gate import Builder, from_tree
from peftbench.config.overrides import named_options
from peftbench.foundation.errors import ConfigError

MAPS = "task=segmentation dataset=scenes"
PAIR = "backbone=pair_micro dataset=named_shapes"
APART = "backbone=pair_micro dataset=domain_shapes task=text_classification task.apart=true"
SAID = {
    "method=pro_vpt train.compile=true": "pro_vpt rearranges the network between epochs; set train.compile=false",
    "method=pro_vpt optim.average_mean=1": "pro_vpt rearranges the network between epochs; set optim.average_mean=null",
    f"{MAPS} train.compile=true": "which a compiled block does not bear; set train.compile=false",
    f"method=lora method.towers=[text] {PAIR}": "method.towers=['text']: task=classification reads images alone; set",
    "task=vqa backbone=pair_micro dataset=asked_shapes train.mixup=0.2": "texts cannot be mixed with them; set train.m",
    "objective=pace objective.form=fast train.cutmix=1": "train.cutmix mixes images, and objective pace (form=fast) c",
    f"{APART} train.label_smoothing=0.1": "train.label_smoothing gives images a share in classes of other tasks; set",
    f"{APART} train.mixup=0.2": "train.mixup gives images a share in classes of other tasks; set train.mixup=0",
    "protocol.test_flip=true": "are for tasks that predict maps; with task=classification leave them out",
    "protocol.canvas=64 train.augment=scale_crop_flip": "protocol.canvas is for tasks that predict maps; task=class",
    "method=lora method.towers=[]": "method.towers must name towers, each once, got []",
    "method=lora tune.num_trials=3": "tune.num_trials goes with a search, and nothing is tuned here; add tune=random",
    "method=lora backbone.weights=none backbone.checkpoint=x.pth": "each say where the weights come from; leave one",
    "runtime.device=gpu": "runtime.device 'gpu' is not a device; use auto, cpu, cuda or cuda:N",
    "method=lora tune=random tune.lr=0.1": "tune.lr must be two numbers, the lower one first",
    f"{MAPS} protocol.canvas=64 train.augment=none": "protocol.canvas needs windows to train on; set train.augment=sca",
}
FINE = (
    "method=lora tune=random tune.num_trials=3 tune.lr=[0.001,0.1]",
    "method=lora tune=none tune.num_trials=3",
    "method=lora backbone.checkpoint=x.pth",
    "runtime.device=cuda:1",
    "method=pro_vpt",
    "method=vpt_deep train.compile=true optim.average_mean=1",
    f"method=lora method.towers=[text] {PAIR} task=text_classification",
    f"method=clip_lora {PAIR}",
    "objective=pace objective.form=lazy train.cutmix=1",
    f"{APART}",
    f"{MAPS} protocol.canvas=64 train.augment=scale_crop_flip protocol.test_flip=true",
)


def problems(words: str, outline: bool) -> list[str]:
    try:
        from_tree(Trees().of(words.split()), named_options(words.split()), Builder(outline=outline))
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("words", SAID)
def test_a_contradiction_is_said_by_the_options_alone(words: str) -> None:
    [problem] = problems(words, outline=True)
    assert SAID[words] in problem and problems(words, outline=False) == [problem]


@pytest.mark.parametrize("words", FINE)
def test_what_goes_together_is_left_alone(words: str) -> None:
    assert problems(words, outline=True) == problems(words, outline=False) == []


def test_a_wrong_section_is_asked_nothing() -> None:
    """Only what is wrong by itself is said; the method is asked with the sections that are right."""
    assert len(problems("method=pro_vpt optim.average_mean=1 train.compile=true train.epochs=0", outline=True)) == 1
    assert len(problems("method=pro_vpt method.num_tokens=0 train.compile=true", outline=True)) == 1


def test_a_plan_refuses_it_and_leaves_nothing_behind(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["method=vpt_deep,pro_vpt", "dataset=digits", "train.compile=true", f"runtime.results={tmp_path / 'own'}"]
    for flags in (["--dry-run"], []):
        assert command("-m", *words, *flags) == 2
        said = capsys.readouterr().err
        assert "pro_vpt rearranges the network between epochs; set train.compile=false (method=pro_vpt)" in said
    assert not (tmp_path / "own").exists()
