"""Where records of a plan lie that are not where they were planned: packed, unpacked or moved since."""

from __future__ import annotations

from pathlib import Path

from peftbench.foundation.errors import BadInput
from peftbench.records.packed import SUFFIX
from peftbench.records.store import Store
from peftbench.sweep.plan import PlannedCell, file_state


class Places:
    """Looks at many cells of a plan. Each results folder is listed once, and anew when packs have come or gone.

    One look at a time: a plain file that appears elsewhere than planned meanwhile is seen by the next one.
    """

    def __init__(self) -> None:
        self._listed: dict[Path, tuple[list[int] | None, dict[str, Path]]] = {}

    def find(self, cell: PlannedCell) -> tuple[Path, bool] | None:
        """The file or pack that holds the cell's record, and whether the record was made since the cell was planned.

        None where there is no record.
        """
        path = Path(cell.record_path)
        # a pack stands also when this record has left it, and changes when others join it
        found = None if path.name.endswith(SUFFIX) else file_state(path)
        if found is not None:
            return path, found != cell.record
        place = self._elsewhere(cell)
        if place is None:
            return None
        # moved or packed as it was, unless a copy of what it replaced is newer than what the plan saw
        rerun = cell.reruns and cell.record and Store(cell.results).replaced_since(cell.fingerprint, cell.record[1])
        return place, cell.record is None or bool(rerun)

    def _elsewhere(self, cell: PlannedCell) -> Path | None:
        results, store = cell.results, Store(cell.results)
        # packs lie in this folder itself, so that one that came after the listing has changed its time
        stamp = file_state(store.records_folder)
        if results not in self._listed or self._listed[results][0] != stamp:
            self._listed[results] = stamp, _listed(store)
        return self._listed[results][1].get(cell.fingerprint)


def _listed(store: Store) -> dict[str, Path]:
    """As far as folders are open: one that was closed since the plan hides records of others, not those in packs."""
    try:
        return store.places()
    except BadInput:
        return store.packed()
