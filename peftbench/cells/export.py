"""A record's adapter as one file to share."""

from __future__ import annotations

from pathlib import Path

from peftbench.adapters.file import read_adapter
from peftbench.adapters.sharing import export_adapter, weights_digest
from peftbench.backbones.build import build_backbone, input_spec
from peftbench.cells.data import image_transform
from peftbench.cells.restore import record_config
from peftbench.records.owned import own_adapter, own_predictions
from peftbench.records.record import RunRecord
from peftbench.records.store import Store


def export_record(record: RunRecord, store: Store, options: list[str], target: Path) -> Path:
    """Write `target` from a record's adapter; `options` say where inputs are on this machine.

    Raises `MissingInput` when adapter, data or weights are not here, `RecordError` when they are not the record's.
    """
    config, _ = record_config(record, options)
    digest = weights_digest(build_backbone(config.backbone).net)
    own_predictions(store, record)
    tensors, _ = read_adapter(own_adapter(store, record))
    images = image_transform(input_spec(config.backbone), config.protocol)
    return export_adapter(record, config, tensors, images, digest, target)
