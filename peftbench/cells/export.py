"""A record's adapter to share, in the form that the ending of its file asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from peftbench.adapters.card import TAG, card
from peftbench.adapters.file import read_adapter
from peftbench.adapters.graphs import write_onnx, write_program
from peftbench.adapters.hf_peft import CONFIG, WEIGHTS, write_peft
from peftbench.adapters.sharing import export_adapter, facts_of, is_export, restored, weights_digest
from peftbench.backbones.build import build_backbone, input_spec
from peftbench.cells.data import image_transform
from peftbench.cells.restore import record_config
from peftbench.config.gate import RunConfig
from peftbench.config.overrides import named_paths
from peftbench.foundation.errors import ConfigError, NotApplicable, settled_by_a_record
from peftbench.foundation.files import check_writable, replace_text
from peftbench.foundation.overwriting import refuse_other
from peftbench.foundation.system import unreadable
from peftbench.records.owned import own_adapter, own_predictions
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.tasks.model import Classifier

# ending -> form; a folder is what Hugging Face's PEFT reads
FORMS = {".safetensors": "adapter", "": "peft", ".onnx": "onnx", ".pt2": "program"}


def export_record(
    record: RunRecord, store: Store, options: list[str], target: Path | str, repo: str | None = None
) -> Path:
    """Write `target` from a record's adapter, in the form that its ending says, and its card beside it.

    A text that ends in a slash names a folder, and so does the path of a folder that is there (`is_one_file`).
    `options` say where inputs are on this machine; `repo` is the hub's repository that the card is to speak of. Graphs
    are compared with the model before they are left. Raises as `check_target`, `MissingInput` when adapter, data or
    weights are not here, `RecordError` when they are not the record's, `NotApplicable` when the form cannot hold the
    method, or none the record (`unexportable`).
    """
    check_target(target, named_paths(options))
    form, card_file, target = form_of(target), card_of(target), Path(target)
    if target.name in ("", ".."):
        # `.` has no name, which its card and other forms beside it go by
        target = target.resolve()
    config, _ = record_config(record, options)
    if reason := unexportable(config):
        raise NotApplicable(f"{reason}; 'evaluate' and 'reproduce' restore its record")
    own_predictions(store, record)
    path = own_adapter(store, record)
    tensors, _ = read_adapter(path)
    with settled_by_a_record():
        backbone = build_backbone(config.backbone)
    images = image_transform(input_spec(config.backbone), config.protocol)
    facts = facts_of(record, config, images, weights_digest(backbone.net))
    size = facts["images"]["size"]
    # every form is of a model that the tensors fit
    model = restored(backbone, tensors, facts, path, form in ("onnx", "program") and config.method.mergeable)
    if form == "adapter":
        export_adapter(facts, tensors, target)
    elif form == "onnx":
        write_onnx(model, size, target)
    elif form == "program":
        write_program(model, size, target)
    else:
        if not isinstance(model, Classifier):
            raise NotApplicable(f"PEFT's format holds classifiers, this is {config.task.name}: write a .safetensors")
        write_peft(model, config.backbone.model, target)
    replace_text(card_file, card(facts, _forms(target, record.fingerprint), repo))
    return target


def unexportable(config: RunConfig) -> str:
    """Why no form holds the models of a cell, in words to begin a message with; "" where one may."""
    if config.dataset.clip_length > 1:
        return "export writes models of images and this one is of clips"
    if config.backbone.text or config.backbone.writer:
        return "export writes models of images alone and this backbone reads texts as well"
    return ""


def check_target(target: Path | str, inputs: Sequence[Path] = ()) -> None:
    """What `export_record` refuses of a place, asked ahead of long work; what stands there is as before.

    Raises `ConfigError` where one of the `inputs` or what is no export of this package would be written over, or a
    folder stands in the card's place, `RecordError` where file or card cannot be written.
    """
    form = form_of(target)
    if form == "adapter":
        refuse_other(Path(target), "export", is_export, inputs)
    else:
        # these forms say nothing of who wrote them, their card does
        own = _carded(target)
        for file in (Path(target),) if is_one_file(target) else (Path(target) / CONFIG, Path(target) / WEIGHTS):
            refuse_other(file, "export with its card beside it, by which one is known,", lambda _: own, inputs)
    _refuse_other_text(card_of(target))
    for file in (*((Path(target),) if is_one_file(target) else ()), card_of(target)):
        check_writable(file)


def card_of(target: Path | str) -> Path:
    """Where the card of an exported file or folder is."""
    path = Path(target)
    return path.with_suffix(".md") if is_one_file(target) else path / "README.md"


def form_of(target: Path | str) -> str:
    """The form, of those in `FORMS`, that is written to a target."""
    return FORMS[Path(target).suffix if is_one_file(target) else ""]


def is_one_file(target: Path | str) -> bool:
    """Whether a form of this name is a file, which its ending says.

    Else it is a folder: one that is there, or whose name ends in a slash, may end in anything.
    """
    path = Path(target)
    return bool(path.suffix) and path.suffix in FORMS and not str(target).endswith("/") and not path.is_dir()


def _refuse_other_text(path: Path) -> None:
    """Raises `ConfigError` where a file that is no card of this package would be written over."""
    try:
        if path.is_dir():
            raise ConfigError([f"export writes its card to {path}, which is a folder; name another target"])
        if path.is_file() and TAG not in path.read_text(encoding="utf-8", errors="replace"):
            words = f"export writes its card to {path}, and what is there is no card of this package"
            raise ConfigError([f"{words}; move it away, or name another target"])
    except OSError as error:
        raise unreadable(error) from error


def _carded(target: Path | str) -> bool:
    """Whether a card of this package is where that of `target` is. One of another record may name other forms."""
    try:
        text = card_of(target).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return TAG in text


def files_of(target: Path) -> dict[str, Path]:
    """What an export wrote, and other forms that its card names: name in a repository -> file."""
    own = _named(target, card_of(target).read_text(encoding="utf-8")) or [target / CONFIG, target / WEIGHTS]
    return {file.name: file for file in own} | {"README.md": card_of(target)}


def _forms(target: Path, record: str) -> dict[str, str]:
    """Name -> form, of `target` and of the record's other forms that lie beside it and that its old card names."""
    if not is_one_file(target):
        return {target.name: FORMS[""]}
    try:
        old = card_of(target).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        old = ""
    kept = {target, *(_named(target, old) if f"| record | `{record}`" in old else ())}
    return {file.name: form for suffix, form in FORMS.items() if (file := target.with_suffix(suffix)) in kept}


def _named(target: Path, text: str) -> list[Path]:
    """The files of one name with `target`, itself included, that are there and that a card names."""
    files = [target.with_suffix(suffix) for suffix in FORMS if suffix and is_one_file(target)]
    return [file for file in files if json.dumps(file.name) in text and file.is_file()]
