"""Download of an original by torchvision, which checks the published MD5 of every archive."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftbench.data.vtab.originals.facts import Original
from peftbench.foundation.errors import MissingInput, PeftbenchError

_TIMEOUT_SECONDS = 20
_CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)


def fetch(label: str, original: Original, root: Path) -> None:
    """Download and unpack below `root`. Raises `MissingInput` when there is no connection or the server refuses."""
    assert original.download is not None
    name, calls = original.download
    try:
        root.mkdir(parents=True, exist_ok=True)
        from torchvision import datasets

        with _timeout():
            for arguments in calls:
                getattr(datasets, name)(str(root), download=True, **arguments)
    except _CONNECTION_ERRORS as error:
        reason = getattr(error, "reason", None) or error
        raise MissingInput(
            f"{label}: cannot be downloaded ({reason}); with a connection elsewhere get {original.where}, below {root}"
        ) from error
    except (RuntimeError, ModuleNotFoundError) as error:
        # torchvision says so for a wrong MD5, a quota page of Google Drive, or a missing downloader
        raise MissingInput(
            f"{label}: torchvision cannot fetch it ({error}); get {original.where}, below {root}"
        ) from error
    except OSError as error:
        raise PeftbenchError(
            f"{label}: {root} cannot be used ({error.strerror or error}); "
            f"point dataset.originals to a folder that can be written and has room for {2 * original.megabytes:,} MB"
        ) from error


@contextmanager
def _timeout() -> Iterator[None]:
    """torchvision opens connections without a limit of its own; a dead one would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
