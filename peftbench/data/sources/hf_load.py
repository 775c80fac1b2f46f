"""Loading with the library `datasets`: from local files or the hub, no file of another dataset, errors in our words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.data.sources.hf_files import OwnedFiles, check_saved
from peftbench.data.sources.hub import unreachable
from peftbench.foundation.errors import BadInput, MissingInput, brief
from peftbench.foundation.location import default_cache_dir

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetDict

# what pandas writes of a frame whose rows were chosen
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def load_local(given: Path, owned: OwnedFiles, revision: Callable[[], str]) -> DatasetDict:
    """The splits of a table, of a folder of tables or images, or of what `save_to_disk` wrote.

    `revision`: asked only where the library prepares the files in a cache. Raises `BadInput` for what it cannot load.
    """
    import datasets

    place = given.resolve()
    if place.is_file() and place.suffix not in (".parquet", ".arrow"):
        raise BadInput(f"{place}: dataset.path takes a parquet file, a folder or a hub id")
    name, files = (place.suffix[1:], str(place)) if place.is_file() else (str(place), None)
    with _translated(str(given)):
        if (place / "dataset_dict.json").is_file():  # written by save_to_disk
            check_saved(place, owned)
            return datasets.load_from_disk(str(place))
        # a folder for each content and place: the library tells files apart by their times alone
        state = hashlib.sha256(f"{revision()} {place}".encode("utf-8", "surrogateescape")).hexdigest()
        cache = str(default_cache_dir() / "hf" / state[:16])
        builder = datasets.load_dataset_builder(name, data_files=files, cache_dir=cache)
        tables = _files_of(builder)
        owned.refuse_others(tables, "its README.md")
        first, extra = _columns_of(tables) if builder.name == "parquet" else ([], {})
        if any(extra.values()) and all(_PANDAS_INDEX.fullmatch(name) for names in extra.values() for name in names):
            builder = datasets.load_dataset_builder(name, data_files=files, cache_dir=cache, columns=first)
        try:
            builder.download_and_prepare()
        except datasets.exceptions.DatasetsError as error:
            problems = [f"{Path(table).name} has {', '.join(names)}" for table, names in extra.items() if names]
            if not problems:
                raise
            raise BadInput(
                f"{given}: {'; '.join(problems)}, which {Path(tables[0]).name} has not; write all tables with the same "
                "columns"
            ) from error
        return builder.as_dataset()


def _columns_of(tables: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The columns of the first table, and those that each table has beyond them."""
    import pyarrow.parquet

    columns = {}
    for table in tables:
        try:
            columns[table] = pyarrow.parquet.read_schema(table).names
        except (pyarrow.ArrowException, OSError) as error:
            raise BadInput(f"{table} is no whole parquet file ({brief(error)})") from error
    first = columns[tables[0]]
    return first, {table: [name for name in names if name not in first] for table, names in columns.items()}


def load_from_hub(hub_id: str, commit: str) -> DatasetDict:
    """The splits of a dataset of the hub at one commit, downloaded where they are not here.

    Raises `MissingInput` where it cannot be had, `BadInput` where the library cannot load it.
    """
    import datasets

    with _translated(hub_id):
        builder = datasets.load_dataset_builder(hub_id, revision=commit)
        foreign = [file for file in _files_of(builder) if not file.startswith(f"hf://datasets/{hub_id}@{commit}/")]
        if foreign:
            raise BadInput(f"{hub_id}: its README.md names {foreign[0]}, which is no file of this dataset")
        builder.download_and_prepare()
        return builder.as_dataset()


def _files_of(builder: DatasetBuilder) -> list[str]:
    return [str(file) for files in (builder.config.data_files or {}).values() for file in files]


@contextmanager
def _translated(place: str) -> Iterator[None]:
    """What `datasets.load_dataset` raises, in our words; its progress bars stay off."""
    import datasets
    import pyarrow
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HTTPError

    were_on = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    except DatasetNotFoundError as error:
        raise MissingInput(
            f"{place}: the hub has no such dataset, or it is private or gated (then: hf auth login); "
            "or set dataset.path=<folder with train.parquet and test.parquet>"
        ) from error
    except DataFilesNotFoundError as error:
        raise BadInput(f"{place}: no parquet files and no images that datasets can load") from error
    except (DatasetsError, pyarrow.ArrowException, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise BadInput(
            f"{place}: datasets cannot load it ({str(cause).splitlines()[0] if str(cause) else cause!r})"
        ) from error
    except (HTTPError, OSError) as error:
        if Path(place).exists():
            raise BadInput(f"{place}: datasets cannot read it ({error})") from error
        raise unreachable(place) from error
    finally:
        if were_on:
            datasets.enable_progress_bars()
