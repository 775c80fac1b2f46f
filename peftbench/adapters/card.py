"""The card that goes with a shared adapter: what it is, how it was measured, how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peftbench.adapters.sharing import metric_of, task_of
from peftbench.backbones.source import EMBEDDED, USUAL, from_a_file, ships

_USE = {
    "peft": """from peft import PeftModel

model = PeftModel.from_pretrained(net, {file}).eval()""",
    "adapter": """from peftbench.adapters.sharing import with_adapter

model = with_adapter(net, {file})""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession({file})
[logits] = session.run(None, {{"images": images}})""",
    "program": """import torch

model = torch.export.load({file}).module()""",
}
_PHOTOS = """
# or for image files, preparation included
import peftbench

print(peftbench.predictor({file}{checkpoint})("photo.jpg"))"""
# a name for weights that whoever reads the card has elsewhere
_ELSEWHERE = "BACKBONE.safetensors"
# by which a card of this package is known
TAG = 'tags: ["peftbench"'
# tasks that the hub has a name for
_PIPELINES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "depth": "depth-estimation",
}
# what a model gives, by task; all others predict maps
_MAPS = "scores `[batch, channels, {size}, {size}]`"
_BOXES = "what answers boxes, `.answer(boxes)`, with masks `[batch, boxes, {size}, {size}]`"
_OUTPUTS = {
    "classification": "logits `[batch, {classes}]`",
    "several": _MAPS + " by the name of each task",
    "promptable": _BOXES,
    "region": _BOXES + " and class scores",
}
# where a card is of several forms, the first of these names it
_LIBRARY = {"peft": "peft", "adapter": "timm", "onnx": "onnx", "program": "pytorch"}


def card(facts: Mapping[str, Any], files: Mapping[str, str], repo: str | None = None) -> str:
    """Markdown with the front matter that model hubs read. `facts`: as an exported adapter says them of itself.

    `files`: name of a file or folder beside the card -> its form, one of peft, adapter, onnx, program; each gets its
    lines of Python. `repo` is the hub's repository that all are in, None for files on a disk.
    """
    backbone, images, labels, names = (facts[key] for key in ("backbone", "images", "labels", "class_names"))
    task = task_of(facts, next(iter(files)))
    forms = set(files.values())
    # weights that are at no hub have no address there
    base = [f"base_model: {json.dumps('timm/' + backbone['model'])}"] if _at_timm(facts) else []
    front = [
        f"library_name: {next(library for form, library in _LIBRARY.items() if form in forms)}",
        *([f"pipeline_tag: {_PIPELINES[task]}"] if task in _PIPELINES else []),
        *base,
        f"tags: {json.dumps(['peftbench', f'image-{task}', facts['method']['name']])}",
    ]
    shown = ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "")
    values = {
        **_scores(facts),
        "method": ". ".join(word for word in (labels["method"], labels.get("remark")) if word),
        "backbone": f"`{backbone['model']}`, weights `{backbone['weights']}`",
        "protocol": labels.get("protocol", ""),
        "seed": facts["seed"],
        "record": f"`{facts['record']}`, peftbench {facts['made_by']['version']}",
        "classes": f"{len(names)}: {shown}",
        "images": f"{images['resize']} to {images['size']} px, {images['interpolation']}, crop {images['crop_pct']:g}; "
        f"{'turned as their EXIF data say; ' if images.get('apply_exif') else ''}"
        f"values in 0..1, minus {images['mean']}, divided by {images['std']}",
    }
    cell = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items()]
    title = " on ".join(str(labels[key]) for key in ("method", "dataset") if key in labels)
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {title}",
        "\n".join(["| | |", "| --- | --- |", *cell]),
        *(f"```python\n{_use(facts, form, task, file, repo)}\n```" for file, form in files.items()),
        f"Prepared images `[batch, 3, {images['size']}, {images['size']}]` in, "
        f"{_OUTPUTS.get(task, _MAPS).format(size=images['size'], classes=len(names))} out.",
        "The number speaks of images like those it was measured on. The licences of the backbone's weights and of "
        "the data hold for what was trained from them.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(facts: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, by split. The test split is told even where it was not read: settings are chosen by others."""
    metric = metric_of(facts)
    return {
        f"{metric.name}, {split} split": "not measured" if scores is None else metric.shown(scores[metric.name])
        for split, scores in facts["scores"].items()
        if split == "test" or scores is not None
    }


def _use(facts: Mapping[str, Any], form: str, task: str, file: str, repo: str | None) -> str:
    """Lines of Python that load the file; `net` is the plain timm model where the form does not hold it."""
    where, lines = json.dumps(file), []
    if repo is not None and form == "peft":
        where = json.dumps(repo)
    elif repo is not None:
        lines.append("from huggingface_hub import hf_hub_download\n")
        where = f"hf_hub_download({json.dumps(repo)}, {where})"
    if form in ("peft", "adapter"):
        lines.append(_plain_model(facts, len(facts["class_names"]) if form == "peft" else 0))
    lines.append(_USE[form].format(file=where))
    if (form, task) == ("adapter", "classification"):
        given = from_a_file(facts["backbone"]["model"], str(facts["backbone"]["weights"]))
        lines.append(_PHOTOS.format(file=where, checkpoint=f', checkpoint="{_ELSEWHERE}"' if given else ""))
    return "\n".join(lines)


def _plain_model(facts: Mapping[str, Any], num_classes: int) -> str:
    backbone = facts["backbone"]
    size = f", img_size={backbone['img_size']}" if backbone["img_size"] else ""
    if _at_timm(facts):
        made = f'net = timm.create_model("{backbone["model"]}", pretrained=True, num_classes={num_classes}{size})'
        return f"import timm\n\n{made}\n"
    name = EMBEDDED.get(backbone["model"], USUAL)
    shipped = ships(backbone["model"], backbone["weights"])
    imported = "from peftbench.backbones.source import embedded_file" if shipped else "from pathlib import Path"
    file = f'embedded_file("{name}")' if shipped else f'Path("{_ELSEWHERE}")'
    # the second import tells timm of the package's own model
    return f"""{imported}

import peftbench.backbones.{name}
import timm
from peftbench.backbones.weights import load_weights

net = timm.create_model("{backbone["model"]}", num_classes={num_classes}{size})
load_weights(net, {file})  # {backbone["weights"]}
"""


def _at_timm(facts: Mapping[str, Any]) -> bool:
    return str(facts["backbone"]["weights"]).startswith("timm:")
