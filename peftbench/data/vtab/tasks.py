"""Facts of the 19 VTAB-1k tasks (arXiv:1910.04867; counts as asserted by google-research/task_adaptation)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VtabTask:
    """One task. `folders`: names of its processed folder, in order of preference. `spellings`: other names users write.

    `num_test` holds more than one count where builds of the source differ. `histograms` are fingerprints of the
    official label counts (see `vtab_folder.label_fingerprint`), by split, where they are known. Every task trains on
    800 images, validates on 200 and is scored by top-1 accuracy, whatever its own community reports.
    """

    group: str
    num_classes: int
    num_test: tuple[int, ...]
    folders: tuple[str, ...]
    spellings: tuple[str, ...] = ()
    histograms: tuple[tuple[str, str], ...] = ()
    metric: str = "accuracy"


@dataclass(frozen=True)
class Original:
    """Where the images of a task come from. `megabytes`: of the archives, as TFDS lists them; None where unknown.

    `licence`: as its authors state it; read their page before use. `notes`: what must be done by hand, if anything.
    """

    licence: str
    megabytes: int | None
    notes: str = "direct download"


def _histograms(train800: str, val200: str, test: str = "") -> tuple[tuple[str, str], ...]:
    known = (("train800", train800), ("val200", val200), ("test", test))
    return tuple((split, digest) for split, digest in known if digest)


VTAB_TASKS: dict[str, VtabTask] = {
    "cifar100": VtabTask("natural", 100, (10_000,), ("cifar", "cifar100", "cifar_100", "cifar-100")),
    # TFDS builds differ by one test image.
    "caltech101": VtabTask("natural", 102, (6_084, 6_085), ("caltech101",), ("caltech", "caltech-101")),
    "dtd": VtabTask("natural", 47, (1_880,), ("dtd",), ("textures",)),
    "oxford_flowers102": VtabTask(
        "natural", 102, (6_149,), ("oxford_flowers102", "flowers102", "oxford_flowers"), ("flowers",)
    ),
    "oxford_iiit_pet": VtabTask(
        "natural",
        37,
        (3_669,),
        ("oxford_iiit_pet", "oxford_pet", "oxford_pets", "pets"),
        ("pet",),
        _histograms("bde31eeeee907c0d", "89da0d36ee00f3c1"),
    ),
    "svhn": VtabTask("natural", 10, (26_032,), ("svhn",), ("svhn_cropped",)),
    "sun397": VtabTask(
        "natural",
        397,
        (21_750,),
        ("sun397",),
        ("sun",),
        _histograms("5214a65e8586a84b", "8696e7ed9c3bd477", "227c131d54fb4201"),
    ),
    "patch_camelyon": VtabTask("specialized", 2, (32_768,), ("patch_camelyon", "pcam"), ("camelyon", "patchcamelyon")),
    "eurosat": VtabTask(
        "specialized",
        10,
        (5_400,),
        ("eurosat",),
        ("eurosat_rgb", "eurosat/rgb"),
        _histograms("4bf8a9c9a11a2e3f", "fadf1d04cee8110d", "69b694f897dfd221"),
    ),
    "resisc45": VtabTask(
        "specialized",
        45,
        (6_300,),
        ("resisc45",),
        ("resisc", "nwpu_resisc45"),
        _histograms("9f2780a6b891961e", "c7f8e33ae692003e", "9db00348e7b1bc31"),
    ),
    "diabetic_retinopathy": VtabTask("specialized", 5, (42_670,), ("diabetic_retinopathy", "retinopathy")),
    "clevr_count": VtabTask("structured", 8, (15_000,), ("clevr_count",), ("clevr_count_all",)),
    "clevr_dist": VtabTask(
        "structured", 6, (15_000,), ("clevr_dist", "clevr_distance"), ("clevr_closest_object_distance",)
    ),
    "dmlab": VtabTask("structured", 6, (22_735,), ("dmlab",), ("dm_lab",)),
    "kitti": VtabTask(
        "structured", 4, (711,), ("kitti", "kitti_dist"), ("kitti_distance", "kitti_closest_vehicle_distance")
    ),
    "dsprites_loc": VtabTask(
        "structured",
        16,
        (73_728,),
        ("dsprites_loc", "dsprites_location"),
        ("dsprites_label_x_position", "dsprites_position"),
        _histograms("7d4341610ae1e7a6", "44c0067d02c3fcad", "c5ca6579a930f52e"),
    ),
    "dsprites_ori": VtabTask(
        "structured",
        16,
        (73_728,),
        ("dsprites_ori", "dsprites_orientation"),
        ("dsprites_label_orientation",),
        _histograms("94d2b2caf111ee77", "7f9d72bcabdac43d", "86528c83732ebd4c"),
    ),
    "smallnorb_azi": VtabTask(
        "structured", 18, (12_150,), ("smallnorb_azi", "smallnorb_azimuth"), ("smallnorb_label_azimuth",)
    ),
    "smallnorb_ele": VtabTask(
        "structured", 9, (12_150,), ("smallnorb_ele", "smallnorb_elevation"), ("smallnorb_label_elevation",)
    ),
}


_CLEVR = Original("CC BY 4.0", 19_000, "direct download; one archive for 1,000 + 15,000 images")
_DSPRITES = Original("zlib/libpng", 28)
_SMALLNORB = Original("research only", 263)

# task -> its original, which the processed folder re-encodes as JPEG
ORIGINALS_OF_VTAB: dict[str, Original] = {
    "cifar100": Original("none stated", 169),
    "caltech101": Original("CC BY 4.0", 137),
    "dtd": Original("research only", 625),
    "oxford_flowers102": Original("none stated", 345),
    "oxford_iiit_pet": Original("CC BY-SA 4.0", 811),
    "svhn": Original("non-commercial", 246),
    "sun397": Original("none stated", 39_100, "direct download; the host is slow"),
    "patch_camelyon": Original("CC0 1.0", 8_000, "Google Drive (quota) or Zenodo"),
    "eurosat": Original("MIT", 94),
    "resisc45": Original("none stated", 425, "by hand (OneDrive, rar), or the hub dataset timm/resisc45"),
    "diabetic_retinopathy": Original("rules of the Kaggle competition", None, "Kaggle account, rules to be accepted"),
    "clevr_count": _CLEVR,
    "clevr_dist": _CLEVR,
    "dmlab": Original("none stated", 3_000),
    "kitti": Original("CC BY-NC-SA 3.0", 12_600),
    "dsprites_loc": _DSPRITES,
    "dsprites_ori": _DSPRITES,
    "smallnorb_azi": _SMALLNORB,
    "smallnorb_ele": _SMALLNORB,
}


def canonical_task(name: str) -> str:
    """The id of the task called `name`, which may be an id, a folder name or a known spelling; else `name` itself."""
    for task, facts in VTAB_TASKS.items():
        if name in (task, *facts.folders, *facts.spellings):
            return task
    return name
