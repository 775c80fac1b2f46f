"""Prompt templates as data: what stands around a class name before a text tower reads it."""

from __future__ import annotations

# what stands where a data set names no template of its own
PLAIN = ("a photo of a {}.",)

# CLIP's 80 templates for ImageNet (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb, MIT), by their parts:
# most occur with both articles.
_KINDS = (
    *(f"a {look} photo" for look in ("bad", "cropped", "bright", "dark", "close-up", "black and white", "pixelated")),
    *(f"a {look} photo" for look in ("jpeg corrupted", "blurry", "good", "low resolution")),
    *(f"a {kind}" for kind in ("photo", "sculpture", "rendering", "tattoo", "drawing", "painting", "doodle", "sketch")),
    *("a rendition", "graffiti", "art", "itap"),
)
_LOOKS = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
_STUFFS = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")
IMAGENET_80 = (
    *(f"{kind} of {article} {{}}." for kind in _KINDS for article in ("a", "the")),
    *(f"a photo of {article} {look} {{}}." for look in _LOOKS for article in ("a", "the")),
    *(f"{article} {stuff} {{}}." for stuff in _STUFFS for article in ("a", "the")),
    *(f"{article} {{}} in a video game." for article in ("a", "the")),
    *(f"a photo of {word} {{}}." for word in ("many", "my", "one")),
    "itap of my {}.",
)
# The seven that CLIP's authors found best together (the same notebook; CoOp calls them selected).
IMAGENET_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
# PromptSRC's 60 (muzairkhattak/PromptSRC): CLIP's list breaks off behind "itap of the {}.".
_BEHIND = (
    *("a jpeg corrupted photo of the {}.", "a good photo of a {}.", "a plushie {}.", "a photo of the nice {}."),
    *("a photo of the small {}.", "a photo of the weird {}.", "the cartoon {}.", "art of the {}."),
    *("a drawing of the {}.", "a photo of the large {}.", "a black and white photo of a {}.", "the plushie {}."),
    *("a dark photo of a {}.", "itap of a {}.", "graffiti of the {}.", "a toy {}.", "itap of my {}."),
    *("a photo of a cool {}.", "a photo of a small {}.", "a tattoo of the {}."),
)
IMAGENET_60 = tuple(template for template in IMAGENET_80 if template not in _BEHIND)
