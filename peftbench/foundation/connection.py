"""Is the model and data hub reachable? Asked once before a download, since its client retries for a minute."""

from __future__ import annotations

import os
import urllib.error
import urllib.request


def offline_reason(timeout_seconds: float = 5.0) -> str | None:
    """Why nothing can be downloaded from the hub now, in a few words; None when it answers."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{variable} is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout_seconds).close()
    except urllib.error.HTTPError:
        return None  # it answered
    except (urllib.error.URLError, OSError) as error:
        return f"the hub does not answer: {getattr(error, 'reason', error)}"
    return None
