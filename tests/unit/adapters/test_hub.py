"""Pushing an exported adapter: what the hub gets, and what is said when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peftbench.adapters.hub import PushError, push, ready_to_push
from peftbench.foundation.errors import MissingInput
from tests.hub_stand_in import Hub, stand_in


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with stand_in(monkeypatch) as hub:
        yield hub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "a.safetensors").write_bytes(b"\x00\x01tensors")
    (tmp_path / "a.md").write_text("---\ntags: []\n---\n\n# a card\n")
    return {"a.safetensors": tmp_path / "a.safetensors", "README.md": tmp_path / "a.md"}


def test_files_arrive_in_one_commit_and_again_in_a_repository_that_is_there(hub: Hub, files: dict[str, Path]) -> None:
    ready_to_push()
    assert push(files, "me/mine", True, "first").endswith("/me/mine")
    files["a.safetensors"].write_bytes(b"better")
    push(files, "me/mine", False, "second")
    assert hub.files == {"me/mine": {"a.safetensors": b"better", "README.md": files["README.md"].read_bytes()}}
    assert hub.messages == ["first", "second"]
    assert hub.private == {"me/mine"}
    assert hub.tokens == {"Bearer hf_of_a_test"}


@pytest.mark.parametrize(("status", "said"), [(403, "write access"), (500, "500"), (400, "you shall not")])
def test_a_refusal_is_one_line_with_the_reason(hub: Hub, files: dict[str, Path], status: int, said: str) -> None:
    hub.refuse = status
    with pytest.raises(PushError, match="nothing was pushed to me/mine") as caught:
        push(files, "me/mine", False, "first")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_token_or_hub_it_is_said_before_any_work(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingInput, match=r"cannot be reached .*HF_HUB_OFFLINE is set"):
        ready_to_push()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingInput, match=r"cannot be reached .*does not answer"):
        ready_to_push()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(MissingInput, match="set HF_TOKEN"):
        ready_to_push()
    assert hub.tokens == set()
