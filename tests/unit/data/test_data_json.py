"""JSON files of lists and annotations, read in one place."""

from pathlib import Path

import pytest

from peftbench.data.sources.image_lists import read_json
from peftbench.foundation.errors import BadInput


@pytest.mark.parametrize("text", ['{"images": [', "[" * 100_000, "{'images': []}"], ids=["cut", "deep", "quotes"])
def test_what_is_no_json_is_one_line_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"list\.json: not JSON \([^\n]*\); get it again$"):
        read_json(path, "get it again")
