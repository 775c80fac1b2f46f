"""An exported adapter and its card, sent to a repository of the Hugging Face hub (or of HF_ENDPOINT)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peftbench.foundation.connection import offline_reason
from peftbench.foundation.errors import MissingInput, PeftbenchError, brief


class PushError(PeftbenchError):
    """The hub was reached and took nothing."""


def ready_to_push() -> None:
    """Raises `MissingInput` where no token is set or the hub does not answer; sends nothing."""
    from huggingface_hub import get_token

    if not get_token():
        raise MissingInput(
            "--push needs a token with write access: set HF_TOKEN, or run `hf auth login`; without --push the files "
            "are written here only"
        )
    if reason := offline_reason():
        raise MissingInput(f"--push: the hub cannot be reached ({reason}); without --push the files are written here")


def push(files: Mapping[str, Path], repo: str, private: bool, message: str) -> str:
    """Put `files` (name in the repository -> file here) into the model repository OWNER/NAME, as one commit.

    A repository that is not there is made. Returns its address. Raises `PushError` with the hub's reason.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi()
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in sorted(files.items())]
    try:
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        api.create_commit(repo, added, commit_message=message)
    except (HTTPError, OSError, ValueError) as error:
        why = brief(" ".join(str(error).split()) or type(error).__name__, 200)
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        hint = "; does the token have write access there?" if status in (401, 403) else ""
        raise PushError(f"nothing was pushed to {repo}: {why}{hint}; the files written here stay") from error
    return str(address)
