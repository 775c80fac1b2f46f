"""Where a backbone's weights come from, and what identifies them. No torch: planning asks this of every cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.text_options import TEXTS, TextSpec
from peftbench.foundation.digests import files_digest
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path

INDEX = ".index.json"
_BPE_FROM = "https://github.com/openai/CLIP/blob/main/clip/bpe_simple_vocab_16e6.txt.gz"
USUAL = "vit_micro"
# timm's name of an embedded model that is not the usual one -> the name of its file, and of its module here
EMBEDDED = {
    "swin_micro_patch4_window4_32": "swin_micro",
    "convnext_micro_32": "convnext_micro",
    "sam_micro_patch4_32": "sam_micro",
}


def embedded_file(name: str = USUAL) -> Path:
    """The packaged weights of `vit_micro`, or of another embedded network. Raises `MissingInput` where none are."""
    path = Path(str(files("peftbench") / "assets" / f"{name}.safetensors"))
    if not path.is_file():
        raise MissingInput(f"{path.name} is not in this copy of the package; name one with backbone.checkpoint")
    return path


def weights_files(spec: BackboneSpec) -> tuple[Path, ...]:
    """The files the weights will be read from, the one that is named first; none when timm fetches them.

    The vocabulary of a text tower is the last of them: under another one the same weights read other words. Raises
    `MissingInput` when a file is not there, `BadInput` for a folder or an index that names no shards.
    """
    if spec.source == "embedded":
        return (embedded_file("pair_micro" if spec.text else EMBEDDED.get(spec.model, USUAL)),)
    if spec.source == "timm" and spec.text:
        raise MissingInput(
            f"both towers of {spec.title} are read from one file: set backbone.checkpoint=FILE"
            + (f", from `{spec.download}`" if spec.download else "")
        )
    if spec.source != "checkpoint":
        return ()
    path = user_path(str(spec.checkpoint), "backbone.checkpoint")
    if not path.exists():
        hint = f"; to be had: {spec.download}" if spec.download else ""
        raise MissingInput(f"backbone.checkpoint={spec.checkpoint} is not a file{hint}")
    files = checkpoint_files(path)
    vocabulary = vocabulary_file(TEXTS[spec.text], spec.vocabulary, files) if spec.text else None
    return (*files, vocabulary) if vocabulary else files


def vocabulary_file(text: TextSpec, vocabulary: str | None, weights: Sequence[Path]) -> Path | None:
    """The file that cuts texts into pieces: `vocabulary`, or a tokenizer.json beside the weights; None for a text tower
    whose words ship with the package.

    Raises `MissingInput` when there is none.
    """
    if text.tokenizer == "words":
        return None
    if vocabulary:
        named = user_path(vocabulary, "backbone.vocabulary")
        if not named.is_file():
            raise MissingInput(f"backbone.vocabulary={vocabulary} is not a file; {_vocabulary_of(text)}")
        return named
    for path in weights[:1]:
        if (beside := path.parent / "tokenizer.json").is_file():
            return beside
    raise MissingInput(f"the text tower needs its vocabulary: set backbone.vocabulary=FILE, {_vocabulary_of(text)}")


def _vocabulary_of(text: TextSpec) -> str:
    return "the tokenizer.json of the checkpoint's repository" + (
        f", or {_BPE_FROM}" if text.tokenizer == "bpe" else ""
    )


def checkpoint_files(path: Path) -> tuple[Path, ...]:
    """The files that a checkpoint consists of: itself, or an index of shards followed by its shards.

    Raises `MissingInput` for a shard that is not there, `BadInput` for an index that names anything but files beside it
    or for a path that is no such file.
    """
    if path.is_dir():
        inside = [name for name in ("model.safetensors" + INDEX, "model.safetensors") if (path / name).is_file()]
        hint = f"; set backbone.checkpoint={path / inside[0]}" if inside else "; name a file in it"
        raise BadInput(f"backbone.checkpoint={path} is a folder{hint}")
    if not path.name.endswith(INDEX):
        return (path,)
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise BadInput(f"{path} is not an index of shards: it holds no weight_map from tensors to files") from error
    if outside:
        raise BadInput(f"{path} names '{outside[0]}' as a shard; shards are .safetensors files beside their index")
    if missing := [name for name in shards if not (path.parent / name).is_file()]:
        raise MissingInput(f"{path} names {len(shards)} shards, and {', '.join(missing[:3])} is not beside it")
    return (path, *(path.parent / name for name in shards))


def writer_files(spec: BackboneSpec) -> tuple[Path, ...]:
    """The files of a T5 in the folder `backbone.writer`: config.json, then its weights, then tokenizer.json or the file
    that `backbone.vocabulary` names. None where no writer is named.

    Raises `MissingInput` when one is not there.
    """
    if not spec.writer:
        return ()
    folder = user_path(spec.writer, "backbone.writer")
    if not folder.is_dir():
        raise MissingInput(f"backbone.writer={spec.writer} is not a folder; it holds a T5 as transformers writes it")
    index, whole = folder / ("model.safetensors" + INDEX), folder / "model.safetensors"
    vocabulary = user_path(spec.vocabulary, "backbone.vocabulary") if spec.vocabulary else folder / "tokenizer.json"
    found = [folder / "config.json", index if index.is_file() else whole, vocabulary]
    if missing := [path for path in found if not path.is_file()]:
        raise MissingInput(f"backbone.writer={spec.writer}: there is no {missing[0].name}; {_OF_A_WRITER}")
    return (found[0], *checkpoint_files(found[1]), vocabulary)


_OF_A_WRITER = "it holds config.json, model.safetensors and tokenizer.json, for example of google-t5/t5-base"


def ships(model: str, weights: str) -> bool:
    """Whether weights of that identity are those that the package has for an embedded model."""
    return weights == weights_id(BackboneSpec(model=model))


def from_a_file(model: str, weights: str) -> bool:
    """Whether weights of that identity were read from a file that the user named: who uses them has to name it."""
    return weights.startswith("sha256:") and not ships(model, weights)


def weights_id(spec: BackboneSpec) -> str:
    """What identifies the weights in a cell's fingerprint: the digest of their files, or timm's name for them.

    Cheap enough to run before a cell is planned; builds no model.
    """
    writer = writer_files(spec)
    return _image_id(spec) + (f"+sha256:{files_digest(writer)}" if writer else "")


def _image_id(spec: BackboneSpec) -> str:
    if paths := weights_files(spec):
        return f"sha256:{files_digest(paths)}"
    return f"timm:{spec.model}" if spec.source == "timm" else "none"
