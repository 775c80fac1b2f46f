"""The card that goes with a shared adapter: what it is, how it was measured, how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_USE = {
    "peft": """import timm
from peft import PeftModel

net = timm.create_model("{model}", pretrained=True, num_classes={classes}{size})
model = PeftModel.from_pretrained(net, "{file}").eval()""",
    "adapter": """import timm
from peftbench.adapters.sharing import with_adapter

net = timm.create_model("{model}", pretrained=True{size})
model = with_adapter(net, "{file}")""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
[logits] = session.run(None, {{"images": images}})""",
    "program": """import torch

model = torch.export.load("{file}").module()""",
}
_LIBRARY = {"peft": "peft", "adapter": "timm", "onnx": "onnx", "program": "pytorch"}


def card(facts: Mapping[str, Any], form: str, file: str) -> str:
    """Markdown with the front matter that model hubs read. `facts`: as an exported adapter says them of itself.

    `form` is one of peft, adapter, onnx, program; `file` is the name of the file or folder beside the card.
    """
    backbone, images, labels, names = (facts[key] for key in ("backbone", "images", "labels", "class_names"))
    # the embedded backbone is at no hub
    base = (
        [] if backbone["model"].startswith("vit_micro") else [f"base_model: {json.dumps('timm/' + backbone['model'])}"]
    )
    front = [
        f"library_name: {_LIBRARY[form]}",
        "pipeline_tag: image-classification",
        *base,
        f"tags: {json.dumps(['peftbench', 'image-classification', facts['method']['name']])}",
    ]
    size = f", img_size={backbone['img_size']}" if backbone["img_size"] else ""
    use = _USE[form].format(model=backbone["model"], classes=len(names), size=size, file=file)
    score = facts.get("accuracy")
    shown = ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "")
    values = {
        "accuracy, test split": "see the record" if score is None else f"{score:.2%}",
        "method": ". ".join(word for word in (labels["method"], labels.get("remark")) if word),
        "backbone": f"`{backbone['model']}`, weights `{backbone['weights']}`",
        "protocol": labels.get("protocol", ""),
        "seed": facts["seed"],
        "record": f"`{facts['record']}`, peftbench {facts['made_by']['version']}",
        "classes": f"{len(names)}: {shown}",
        "images": f"{images['resize']} to {images['size']} px, {images['interpolation']}, crop {images['crop_pct']:g}; "
        f"values in 0..1, minus {images['mean']}, divided by {images['std']}",
    }
    cell = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items()]
    title = " on ".join(str(labels[key]) for key in ("method", "dataset") if key in labels)
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {title}",
        "\n".join(["| | |", "| --- | --- |", *cell]),
        f"```python\n{use}\n```",
        f"Prepared images `[batch, 3, {images['size']}, {images['size']}]` in, logits `[batch, {len(names)}]` out.",
        "The accuracy speaks of images like those it was measured on. The licences of the backbone's weights and of "
        "the data hold for what was trained from them.",
    ]
    return "\n\n".join(parts) + "\n"
