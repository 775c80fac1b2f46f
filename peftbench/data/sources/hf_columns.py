"""Which columns of a Hugging Face set hold the images, masks and labels: by usual names or by choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.data.sources.hf_files import OwnedFiles
from peftbench.data.sources.hf_images import EncodedImages
from peftbench.foundation.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset


def find_column(split: Dataset, place: str, option: str, given: str | None, usual: tuple[str, ...]) -> str:
    """The column `given`, or the first with a usual name. `option`: the word that chooses one.

    Raises `BadInput` where there is none, and where two have usual names and do not say the same.
    """
    wanted = (given,) if given else usual
    found = [name for name in wanted if name in split.column_names]
    if len(found) > 1:
        # what holds nothing, or no images beside one that does, is not meant
        found = [name for name in found if split.data.column(name).null_count < len(split)] or found
        found = [name for name in found if _holds_images(split, name)] or found
    if not found:
        raise BadInput(
            f"{place}: no column {' or '.join(wanted)}; columns are {', '.join(split.column_names)}; set {option}"
        )
    for other in found[1:]:
        if not _same(split, found[0], other):
            raise BadInput(
                f"{place}: columns {found[0]} and {other} differ and either may be meant; set {option}={found[0]} or "
                f"{option}={other}"
            )
    return found[0]


def _same(split: Dataset, first: str, second: str) -> bool:
    """Whether two columns are equal, or each value of one goes with one of the other as numbers do with names."""
    one, other = split.data.column(first), split.data.column(second)
    if one.equals(other):
        return True
    if _holds_images(split, first) or _holds_images(split, second):
        return False
    pairs = set(zip(map(str, one.to_pylist()), map(str, other.to_pylist()), strict=True))
    return all(len({pair[at] for pair in pairs}) == len(pairs) for at in (0, 1))


def images_of(
    split: Dataset, column: str, place: str, name: str, option: str, owned: OwnedFiles | None
) -> EncodedImages:
    """The images of a column of the split `name`. Raises `BadInput` for a column that holds none."""
    import datasets

    if not _holds_images(split, column):
        others = [other for other in split.column_names if _holds_images(split, other)]
        advice = (
            f"set {' or '.join(f'{option}={other}' for other in others)}"
            if others
            else "write their bytes into it, or list image files by path (dataset=csv dataset.path=LIST)"
        )
        raise BadInput(f"{place}: column {column} holds no images ({split.features.get(column)}); {advice}")
    # Undecoded, because the library's own decoding rotates by EXIF, which no peer does.
    plain = split.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return EncodedImages(plain, column, f"{place} {name}", owned)


def _holds_images(split: Dataset, column: str) -> bool:
    """Whether a column holds images as the library writes them, or the bytes of image files."""
    import datasets

    feature = split.features.get(column)
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
