"""What is committed under results/ is whole, comes from clean code, and is what the tables and the README show."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.reliability_tables import reliability
from peftbench.boards.reliability_tables import write as write_reliability
from peftbench.boards.render import write
from peftbench.cells.provenance import machine
from peftbench.cli.commands.evaluate import main as evaluate
from peftbench.config.shipped import shipped_options
from peftbench.methods.base import METHODS
from peftbench.records.collect import collect
from peftbench.records.reading import read_record
from peftbench.records.store import Store

ROOT = Path(__file__).resolve().parents[1]
RECORDS, SKIPPED = Store(ROOT / "results").scan()

sys.path.insert(0, str(ROOT / "scripts"))


def test_every_committed_file_is_a_record():
    assert SKIPPED == []
    assert RECORDS, "results/ holds the records behind the README's table"


def test_committed_records_name_their_commit_and_method_and_no_place_of_a_machine():
    assert [fault for record in RECORDS for fault in _faults(record)] == []


def _faults(record):
    """What a reader of this committed record could not trust."""
    method, text = record.identity["method"], record.to_json()
    sound = {
        "clean commit": bool(record.provenance["git_commit"]) and record.provenance["git_dirty"] is False,
        "the method's present version": method["version"] == METHODS.get(method["name"]).version,
        "no place": not any(place in text for place in ("/home/", "/root/", "../")),
        "no root": "root" not in record.config["dataset"],
        "no checkpoint": "checkpoint" not in record.config["backbone"],
    }
    return [f"{record.fingerprint}: {name}" for name, holds in sound.items() if not holds]


ADAPTERS = sorted((ROOT / "results" / "adapters").glob("*.safetensors"))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.stem)
def test_a_committed_adapter_gives_its_record_s_test_result(adapter, capsys):
    record = read_record(adapter.with_suffix(".json"))
    assert record.provenance["git_commit"] and record.provenance["git_dirty"] is False
    assert record == next((known for known in RECORDS if known.fingerprint == adapter.stem), record)
    exit_code = evaluate([adapter.stem, "--results", str(ROOT / "results"), "runtime.progress=false"])
    last = capsys.readouterr().out.splitlines()[-1]
    if record.provenance["machine"]["cpu"] == machine(torch.device("cpu"))["cpu"]:
        assert (exit_code, last) == (0, "reproduced exactly")
    else:
        # other processors sum in another order: an image on the border of two classes may change sides
        assert last == "reproduced exactly" or re.fullmatch(r"differs by [+-][012] images, in its predictions", last)


def test_there_are_adapters_of_more_than_one_family():
    methods = [read_record(adapter.with_suffix(".json")).config["method"]["name"] for adapter in ADAPTERS]
    assert len({METHODS.get(name).family for name in methods}) >= 3


def test_tables_are_what_the_records_give(tmp_path):
    rows = collect(RECORDS)
    tables = leaderboard(rows, shipped_options())
    for path in [*write(tables, tmp_path), *write_reliability(reliability(tables, rows), tmp_path)]:
        assert (ROOT / "results" / "leaderboard" / path.name).read_text() == path.read_text()


def test_the_readme_shows_the_generated_table():
    from readme_table import with_table

    readme = (ROOT / "README.md").read_text()
    assert with_table(readme, (ROOT / "results/leaderboard/leaderboard.md").read_text()) == readme
