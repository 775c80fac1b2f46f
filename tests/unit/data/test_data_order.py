"""The rebuilt TFDS order against published probes (SHA-256 over the keys joined by newlines, 16 digits)."""

import hashlib

import numpy as np
import pytest

from peftbench.data.tfds_order import hash_order, train_and_val
from peftbench.foundation.errors import BadInput


def probe(keys: list[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def keys_at(keys: list[str], positions: np.ndarray) -> list[str]:
    return [keys[position] for position in positions]


@pytest.mark.parametrize(
    ("num_images", "percent", "first_train", "first_val", "train800", "val200"),
    [
        (50_000, 90, [16399, 1680, 47917, 17307], [13431, 9237, 17462], "5b25ee0661c3bc4a", "93377e439662509b"),
        (73_257, 90, [16399, 1680, 47917, 17307], [21145, 64736, 23870], "901fe4f6d4f65bc8", "36ae944d2e322a4f"),
        (737_280, 80, [16399, 634903, 206287, 470425], [220697, 85843, 84902], "54130b46ffd22579", "86005e8c04783edc"),
    ],
    ids=["cifar100", "svhn", "dsprites"],
)
def test_sources_keyed_by_running_index(num_images, percent, first_train, first_val, train800, val200):
    train, val = train_and_val(num_images, percent)
    assert train[: len(first_train)].tolist() == first_train
    assert val[: len(first_val)].tolist() == first_val
    assert probe([str(index) for index in train]) == train800
    assert probe([str(index) for index in val]) == val200


def test_smallnorb_takes_val_and_test_from_the_test_split():
    train, test = hash_order("train", range(24_300)), hash_order("test", range(24_300))
    assert train[:4].tolist() == [16399, 1680, 17307, 1456]
    assert probe([str(index) for index in train[:800]]) == "438b845e2bd4a468"
    assert probe([str(index) for index in test[:200]]) == "d9fca0e85af945f0"
    assert probe([str(index) for index in test[12_150:]]) == "f5e0032ca6dc71ce"


def test_patch_camelyon_salts_with_the_split_and_keys_with_its_own_prefix():
    train_keys = [f"train_{index}" for index in range(262_144)]
    val_keys = [f"valid_{index}" for index in range(32_768)]
    train = keys_at(train_keys, hash_order("train", train_keys)[:800])
    val = keys_at(val_keys, hash_order("validation", val_keys)[:200])
    assert train[:2] == ["train_251464", "train_132287"]
    assert probe(train) == "c1122cb7e413b8b3"
    assert val[:2] == ["valid_3270", "valid_10310"]
    assert probe(val) == "b3998b44bc8423a1"


def test_clevr_is_keyed_by_file_name():
    keys = [f"CLEVR_train_{index:06d}.png" for index in range(70_000)]
    order = hash_order("train", keys)
    assert probe(keys_at(keys, order[:800])) == "5dc1033102716488"
    assert probe(keys_at(keys, order[63_000:63_200])) == "9a9150228251ccef"


@pytest.mark.parametrize("num_images", [0, 1_000, 1_990])
def test_too_small_a_split_is_refused_with_its_size(num_images):
    with pytest.raises(BadInput, match=str(num_images)):
        train_and_val(num_images)


def test_train_and_val_never_overlap_on_a_small_split():
    train, val = train_and_val(1_991)
    assert len(set(train) | set(val)) == 1_000
