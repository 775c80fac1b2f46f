"""What options alone tell of a cell that does not apply, and that building it says so too."""

from __future__ import annotations

import pytest

from peftbench.cells.applies import why_not
from peftbench.cells.parts import build_parts
from peftbench.config.compose import Trees
from peftbench.config.gate import Builder, from_tree
from peftbench.config.overrides import named_options
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.progress import Progress

OF_TASKS = "backbone=pair_micro dataset=domain_shapes task=text_classification task.apart=true"
REASONS = {
    "method=aim dataset=digits": "aim works across the frames",
    "method=mtlora task=segmentation dataset=scenes": "mtlora tells several tasks",
    "method=coop dataset=digits": "reads",
    "method=lora dataset=named_shapes task=text_classification": "task=text_classification reads texts",
    "method=lora task=vqa_written dataset=asked_shapes": "vqa_written needs backbone.writer",
    "method=lora objective=dyt dataset=digits": "objective dyt goes with method=dyt",
    "method=lora objective=gist task=segmentation dataset=scenes": "objective gist is a loss of classes",
    "method=lora objective=kgcoop dataset=digits": "objective kgcoop is made for a pair",
    "method=gps task=segmentation dataset=scenes": "looks at the class",
    "method=coop task=text_classification dataset=named_shapes": "reads",
    f"method=hipro objective=kgcoop {OF_TASKS}": "objective kgcoop compares an image with the classes of all tasks",
}
FINE = (
    "method=lora dataset=digits",
    "method=aim dataset=moving_shapes",
    "method=mtlora task=several dataset=scenes",
    "method=coop backbone=pair_micro dataset=named_shapes protocol=fewshot_coop",
    "method=dyt dataset=digits",
    "method=lora objective=gist dataset=digits",
    "method=mixphm method.towers=[text,image] backbone=pair_micro task=vqa dataset=asked_shapes",
)


def told(words: str, outline: bool = True) -> str:
    config, _ = from_tree(Trees().of(words.split()), named_options(words.split()), Builder(outline=outline))
    return why_not(config)


@pytest.mark.parametrize("words", REASONS)
def test_options_tell_what_the_attempt_would(words: str) -> None:
    assert REASONS[words] in told(words) and told(words) == told(words, outline=False)
    config, runtime = from_tree(Trees().of(words.split()), named_options(words.split()))
    with pytest.raises(NotApplicable):
        build_parts(config, runtime, Progress(False))


@pytest.mark.parametrize("words", FINE)
def test_what_may_apply_is_left_to_the_attempt(words: str) -> None:
    assert told(words) == ""
