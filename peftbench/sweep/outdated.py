"""Finished cells whose plug-in has changed: of its parts the version stands in their identity, the code does not."""

from __future__ import annotations

from collections.abc import Iterator

from peftbench.config.gate import Builder, RunConfig, from_tree
from peftbench.data.base import DatasetSpec
from peftbench.foundation.errors import RecordError
from peftbench.foundation.plugins import plugin_of, plugins, plugins_digest
from peftbench.foundation.spec import Part
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.plan import Plan


def outdated(config: RunConfig, record: RunRecord) -> list[str]:
    """A line for each plug-in that the cell is made with and that has changed since its record was made."""
    digests, made_with = plugins_digest(), record.provenance["versions"]
    return [
        f"the plug-in {plugin} has changed since this of {part.name} was measured; runtime.on_existing=rerun measures "
        f"it again, another {'revision()' if part is config.dataset else 'version'} in its class makes it another cell"
        for part, plugin in _from_plugins(config)
        if made_with.get(f"plug-in {plugin}") != digests[plugin]
    ]


def outdated_in(grid: Plan) -> list[str]:
    """The same of all cells of a grid that are done and are not run again, each line once."""
    return list(dict.fromkeys(_lines(grid))) if plugins() else []


def _lines(grid: Plan) -> Iterator[str]:
    builder = Builder(outline=True)
    for cell in grid.cells:
        config = from_tree(cell.config, (), builder)[0]
        if cell.record is None or cell.reruns or not _from_plugins(config):
            continue
        try:
            record = Store(cell.results).get(cell.fingerprint)
        except RecordError:
            # said with what became of the cells
            continue
        yield from outdated(config, record)


def _from_plugins(config: RunConfig) -> list[tuple[Part | DatasetSpec, str]]:
    """The parts of a cell that come from plug-ins, each with the plug-in's name."""
    parts = (config.method, config.objective, config.task, config.dataset)
    found = [(part, plugin_of(type(part).__module__)) for part in parts]
    return [(part, plugin.name) for part, plugin in found if plugin is not None]
