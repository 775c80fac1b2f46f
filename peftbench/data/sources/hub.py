"""The state of a dataset on the Hugging Face hub: its commit, or why it cannot be had."""

from __future__ import annotations

import os
import re
from pathlib import Path

from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.foundation.errors import MissingInput


def hub_commit(hub_id: str, wanted: str | None) -> str:
    """The full commit of `hub_id` at branch, tag or commit `wanted` (default: newest).

    Without a connection, the commit that was downloaded last. Raises `MissingInput` when neither can be had.
    """
    if wanted and re.fullmatch(r"[0-9a-f]{40}", wanted):
        return wanted
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        # The smallest file of a repository stands for all: the folder it arrives in is named by the commit, and the
        # library itself falls back on what was downloaded before.
        folder = snapshot_download(hub_id, repo_type="dataset", revision=wanted, allow_patterns=[".gitattributes"])
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise MissingInput(
            f"{hub_id}: there is no such file or folder here, and the hub has no such dataset, "
            "or it is private or gated (then: hf auth login); set dataset.path to a folder or hub id"
        ) from error
    except RevisionNotFoundError as error:
        raise MissingInput(f"{hub_id}: the hub knows no revision {wanted} of it (dataset.commit)") from error
    except (HTTPError, OSError) as error:
        raise unreachable(hub_id) from error
    return Path(folder).name


def unreachable(hub_id: str) -> MissingInput:
    """The error for a hub dataset that is neither here nor reachable."""
    switches = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE")
    in_force = ", ".join(f"{name}={os.environ[name]}" for name in switches if name in os.environ) or "none"
    return MissingInput(
        f"{hub_id}: there is no such file or folder here, and the Hugging Face hub cannot be reached "
        f"(offline variables set: {in_force}). With a connection run `hf download {hub_id} --repo-type dataset` "
        f"(add --dry-run for the sizes) and then HF_HUB_OFFLINE=1 here, or set dataset.path=<folder with train.parquet "
        "and test.parquet>.",
        instead=NO_FILES_NEEDED,
        same_line=True,
    )
