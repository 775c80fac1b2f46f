"""`python -m peftbench export RECORD FILE`: a record's adapter as one file to share, for plain timm models."""

from __future__ import annotations

from pathlib import Path

from peftbench.adapters.file import read_adapter
from peftbench.adapters.sharing import export_adapter, weights_digest
from peftbench.backbones.build import build_backbone, input_spec
from peftbench.cells.data import image_transform
from peftbench.cells.restore import find_record, record_config
from peftbench.cli.arguments import Arguments, a_file, a_folder


def main(words: list[str]) -> int:
    """Exit code 0 once the file is written."""
    parser = Arguments(prog="peftbench export", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument("file", type=a_file, help="the file to write (.safetensors)")
    parser.add_argument("options", nargs="*", help="where inputs are on this machine, e.g. dataset.root=DIR")
    parser.add_argument("--results", type=a_folder, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args(words)
    record, store = find_record(arguments.record, arguments.results)
    config, _ = record_config(record, arguments.options)
    digest = weights_digest(build_backbone(config.backbone).net)
    tensors, _ = read_adapter(store.adapter_path(record.fingerprint))
    images = image_transform(input_spec(config.backbone), config.protocol)
    path = export_adapter(record, config, tensors, images, digest, arguments.file)
    print(f"wrote {path}: {record.labels['method']} on {record.labels['dataset']}, {path.stat().st_size:,} bytes")
    return 0
