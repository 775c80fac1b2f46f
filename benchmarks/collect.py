"""How long records take to become a leaderboard, and how much memory: for 1,000 and 100,000 synthetic records.

    python benchmarks/collect.py [--records 1000 100000] [--folder DIR]

Each stage runs in a process of its own, so that its peak memory is its own: the first time (every record is read),
again (nothing is new), with 100 more records, and from one pack. A corrupt and a foreign file lie among the records.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS = [f"method_{index:02}" for index in range(40)]
GROUPS = {"natural": 7, "specialized": 4, "structured": 8}
DATASETS = [(f"{group}_{index}", group) for group, size in GROUPS.items() for index in range(size)]
NUM_SEEDS = 5


def cells() -> Iterator[tuple[str, str, str, str, int]]:
    """(backbone, method, dataset, group, seed): whole tables of 40 x 19 x 5 = 3,800 records, one after another."""
    for table in itertools.count():
        for method, (dataset, group), seed in itertools.product(METHODS, DATASETS, range(NUM_SEEDS)):
            yield f"backbone_{table:03}", method, dataset, group, seed


def synthesise(template: dict[str, Any], cell: tuple[str, str, str, str, int], randomness: random.Random) -> Any:
    """A valid record of this cell, with the template's size."""
    from peftbench.foundation.identity import fingerprint
    from peftbench.records.record import RunRecord

    backbone, method, dataset, group, seed = cell
    values = json.loads(json.dumps(template))
    values["identity"]["backbone"]["title"] = backbone
    values["identity"]["method"]["name"] = method
    values["identity"]["dataset"] = {"kind": dataset}
    values["identity"]["seed"] = values["seed"] = seed
    values["fingerprint"] = fingerprint(values["identity"])
    values["labels"] |= {"backbone": backbone, "method": method, "dataset": dataset, "group": group}
    test = values["metrics"]["test"]
    test["correct"] = randomness.randrange(test["n"] // 2, test["n"])
    test["accuracy"] = test["mean_class_accuracy"] = test["correct"] / test["n"]
    return RunRecord(**values)


def write_records(root: Path, template: dict[str, Any], start: int, stop: int) -> None:
    from peftbench.records.store import Store

    store, randomness = Store(root), random.Random(start)
    for cell in itertools.islice(cells(), start, stop):
        record = synthesise(template, cell, randomness)
        path = store.path_of(record.labels, record.fingerprint)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.to_json(), encoding="utf-8")
    (root / "records/backbone_000/method_00/natural_0/0123456789abcdef.json").write_text('{"schema": 1, "fing')
    (root / "records/backbone_000/method_00/natural_0/package.json").write_text('{"name": "something else"}')


def leaderboard_once(root: Path) -> None:
    """What the command does but for the HTML report; prints one line of JSON."""
    started = time.perf_counter()
    from peftbench.boards.leaderboard import leaderboard
    from peftbench.boards.render import write
    from peftbench.foundation.cores import available_cores
    from peftbench.records.index import read_rows
    from peftbench.records.store import Store

    imported = time.perf_counter()
    rows, skipped = read_rows(Store(root), num_workers=available_cores())
    collected = time.perf_counter()
    tables = leaderboard(rows)
    made = time.perf_counter()
    write(tables, root / "leaderboard")
    result = {
        "records": len(rows),
        "tables": len(tables),
        "skipped": len(skipped),
        "import_seconds": imported - started,
        "collect_seconds": collected - imported,
        "tables_seconds": made - collected,
        "write_seconds": time.perf_counter() - made,
        "cpu_seconds": sum(
            sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(result))


def report(title: str, root: Path) -> None:
    words = [sys.executable, __file__, "--once", str(root)]
    result = json.loads(subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    seconds = {key: value for key, value in result.items() if key.endswith("_seconds")}
    parts = ", ".join(f"{key.removesuffix('_seconds')} {value:.1f} s" for key, value in seconds.items())
    print(
        f"{title:>24}: {result['records']:>7,} records, {result['tables']} tables, {result['skipped']} skipped: "
        f"{parts}, peak {result['peak_mb']:.0f} MB",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[1_000, 100_000], help="how many (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write them (a temporary folder)")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.once:
        leaderboard_once(arguments.once)
        return 0
    from peftbench.cli.commands.pack import pack
    from peftbench.records.store import Store

    template = json.loads(next(Store(ROOT / "results").all()).to_json())
    for number in arguments.records:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            root = Path(folder)
            write_records(root, template, 0, number)
            report("first time", root)
            report("again", root)
            write_records(root, template, number, number + 100)
            report("with 100 new records", root)
            for name in ("0123456789abcdef.json", "package.json"):
                (root / "records/backbone_000/method_00/natural_0" / name).unlink()
            store = Store(root)
            started = time.perf_counter()
            pack(store, store.records_folder / "all.jsonl.gz", {})
            size = (store.records_folder / "all.jsonl.gz").stat().st_size
            print(f"{'packed':>24}: {time.perf_counter() - started:.1f} s, {size / 1e6:.1f} MB")
            report("first time from the pack", root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
