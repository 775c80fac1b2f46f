"""The published protocols as configuration: what each does to an image, and that tables keep them apart."""

import pytest
from hydra import compose, initialize_config_dir

from peftbench.backbones.base import InputSpec
from peftbench.boards.leaderboard import leaderboard
from peftbench.cells.data import image_transform
from peftbench.config.gate import config_dir, register_schemas, to_run_config
from peftbench.foundation.errors import ConfigError
from peftbench.records.collect import collect
from tests.record_factory import make_record

# what a ViT-B/16 of ImageNet-21k declares
VIT = InputSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
IMAGENET, HALF = (0.485, 0.456, 0.406), (0.5, 0.5, 0.5)

PRESETS = {
    "vtab1k": ("squash-224-bicubic-antialias", HALF, "none", True, "train800val200"),
    "vtab1k_noah": ("squash-224-bicubic-antialias", IMAGENET, "none", False, "train800val200"),
    "vtab1k_spt": ("squash-224-bicubic-antialias", IMAGENET, "none", True, "train800val200"),
    "vtab1k_vpt": ("squash-224-bilinear-point", IMAGENET, "none", True, "train800val200"),
    "vtab1k_plain": ("squash-224-bicubic-antialias", (0.0, 0.0, 0.0), "none", False, "train800val200"),
    "vtab1k_ssf": ("squash-224-bicubic-antialias", HALF, "none", False, "train800val200"),
    "vtab1k_dtl": ("squash-224-bicubic-antialias", HALF, "none", False, "train800val200"),
    "vtab1k_vpetl": ("squash-224-bilinear-antialias", IMAGENET, "none", True, "train800val200"),
    "fgvc_vpt": ("crop0.875-224-bilinear-antialias", IMAGENET, "window_flip", True, "train"),
    "fgvc_trainval": ("crop0.875-224-bilinear-antialias", IMAGENET, "window_flip", True, "trainval"),
    "fgvc_spt": ("squash_crop0.875-224-bicubic-antialias", IMAGENET, "window_flip", True, "train"),
}


def composed(*words: str):
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return to_run_config(compose("config", list(words)))[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_does_what_its_paper_did(name):
    config = composed(f"protocol={name}")
    mean, _ = config.protocol.pixel_statistics(VIT.mean, VIT.std)
    found = (image_transform(VIT, config.protocol).key(), mean, config.train.augment, config.train.keep_last_batch)
    assert (*found, config.protocol.train_split) == PRESETS[name]
    assert config.protocol.title == name
    assert config.protocol.report_test and config.protocol.val_split is None


def test_the_command_line_wins_over_a_preset():
    config = composed(
        "protocol=vtab1k_noah", "train.keep_last_batch=true", "protocol.interpolation=bilinear", "train=short"
    )
    assert config.train.keep_last_batch
    assert config.protocol.interpolation == "bilinear"
    assert config.train.epochs == composed("train=short").train.epochs


def test_every_preset_has_its_own_title_in_the_record():
    names = {path.stem for path in (config_dir() / "protocol").glob("*.yaml")}
    assert {composed(f"protocol={name}").protocol.title for name in PRESETS} == set(PRESETS) <= names


def test_a_window_out_of_a_picture_of_its_own_size_is_refused():
    with pytest.raises(ConfigError, match=r"train\.augment=window_flip .* protocol\.resize=crop"):
        composed("train.augment=window_flip")


def test_tables_never_mix_presets_even_under_one_title():
    identities = [composed(f"protocol={name}").protocol.identity() for name in ("vtab1k_noah", "vtab1k_plain")]
    apart = [make_record(protocol=values["title"], options={"protocol": values}) for values in identities]
    retitled = [make_record(options={"protocol": values | {"title": "mine"}}) for values in identities]
    assert [table.protocol for table in leaderboard(collect(apart))] == ["vtab1k_noah", "vtab1k_plain"]
    names = [table.protocol for table in leaderboard(collect(retitled))]
    assert len(set(names)) == 2
    assert all("protocol.normalise" in name for name in names)


def test_style_samples_and_original_pixels_have_columns_of_their_own():
    kinds = [("vtab_folder", "vtab1k-official:folder"), ("vtab_original", "vtab1k-style:seed0")]
    records = [
        make_record(dataset="vtab/caltech101", membership=membership, options={"dataset": {"kind": kind}})
        for kind, membership in kinds
    ]
    [table] = leaderboard(collect(records))
    assert len(table.columns) == 2
    assert sum("vtab1k-style" in column.name for column in table.columns) == 1
