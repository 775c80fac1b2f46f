"""What is known of each original: its files, its size, its counts in TFDS, and the slices of its order VTAB takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.data.vtab.originals import arrays, photos, scenes
from peftbench.data.vtab.originals.examples import Splits

OFFICIAL = "vtab1k-official:rebuilt"


@dataclass(frozen=True)
class Original:
    """One original. `read(root)` gives its splits and class names.

    `markers`: files or folders (globs) below the root that show it is unpacked there. `counts`: examples by TFDS split.
    `val`, `test`: TFDS split and the percentage of its order at which the slice begins; train800 is `train[:800]`.
    `probes`: first 16 hex digits of the SHA-256 over the keys of train800 and of val200, where they are known.
    `download`: torchvision class and the arguments of each download; none where a person must fetch the files.
    `where`: what to fetch, and where to put it.
    """

    read: Callable[[Path], tuple[Splits, tuple[str, ...]]]
    markers: tuple[str, ...]
    counts: dict[str, int]
    val: tuple[str, int]
    test: tuple[str, int]
    megabytes: int
    where: str
    download: tuple[str, tuple[dict[str, Any], ...]] | None = None
    probes: tuple[str, str] | None = None
    membership: str = OFFICIAL
    notes: tuple[str, ...] = field(default=())


_CLEVR: dict[str, Any] = {
    "markers": ("clevr/CLEVR_v1.0/scenes/CLEVR_train_scenes.json", "clevr/CLEVR_v1.0/images/val"),
    "counts": {"train": 70_000, "validation": 15_000},
    "val": ("train", 90),
    "test": ("validation", 0),
    "megabytes": 19_000,
    "where": "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip, unpacked to clevr/",
    "download": ("CLEVRClassification", ({"split": "train"},)),
    "probes": ("5dc1033102716488", "9a9150228251ccef"),
}
_DSPRITES: dict[str, Any] = {
    "markers": (f"dsprites/{arrays.DSPRITES_FILE}",),
    "counts": {"train": 737_280},
    "val": ("train", 80),
    "test": ("train", 90),
    "megabytes": 27,
    "where": f"{arrays.DSPRITES_FILE} of https://github.com/google-deepmind/dsprites-dataset, to dsprites/",
}
_SMALLNORB: dict[str, Any] = {
    "markers": ("smallnorb/*-training-dat.mat*", "smallnorb/*-testing-info.mat*"),
    "counts": {"train": 24_300, "test": 24_300},
    "val": ("test", 0),
    "test": ("test", 50),
    "megabytes": 263,
    "where": "the -dat.mat.gz and -info.mat.gz files of https://cs.nyu.edu/~ylclab/data/norb-v1.0-small, to smallnorb/",
}

ORIGINALS: dict[str, Original] = {
    "caltech101": Original(
        photos.caltech101,
        ("caltech101/101_ObjectCategories",),
        {"train": 3_060, "test": 6_084},
        ("train", 90),
        ("test", 0),
        137,
        "https://data.caltech.edu/records/mzrjq-6wc02, unpacked to caltech101/",
        ("Caltech101", ({},)),
        membership="vtab1k-style:seed0",
        notes=(
            "vtab/caltech101: the official 1,000 images follow the order in which a disk listed them and cannot be "
            "drawn again from the original; these are 30 a class by seed 0, recorded as vtab1k-style",
        ),
    ),
    "dtd": Original(
        photos.dtd,
        ("dtd/dtd/labels/train1.txt", "dtd/dtd/images"),
        {"train": 1_880, "validation": 1_880, "test": 1_880},
        ("validation", 0),
        ("test", 0),
        625,
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz, unpacked to dtd/",
        ("DTD", ({},)),
    ),
    "oxford_flowers102": Original(
        photos.flowers,
        ("flowers-102/setid.mat", "flowers-102/imagelabels.mat", "flowers-102/jpg"),
        {"train": 1_020, "validation": 1_020, "test": 6_149},
        ("validation", 0),
        ("test", 0),
        345,
        "102flowers.tgz, imagelabels.mat and setid.mat of https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, "
        "to flowers-102/",
        ("Flowers102", ({},)),
    ),
    "oxford_iiit_pet": Original(
        photos.pets,
        ("oxford-iiit-pet/annotations/trainval.txt", "oxford-iiit-pet/images"),
        {"train": 3_680, "test": 3_669},
        ("train", 80),
        ("test", 0),
        811,
        "images.tar.gz and annotations.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/pets/, to oxford-iiit-pet/",
        ("OxfordIIITPet", ({},)),
        ("d25e517477870861", "2205e2e97bbd6520"),
    ),
    "svhn": Original(
        arrays.svhn,
        ("train_32x32.mat", "test_32x32.mat"),
        {"train": 73_257, "test": 26_032},
        ("train", 90),
        ("test", 0),
        246,
        "train_32x32.mat and test_32x32.mat of http://ufldl.stanford.edu/housenumbers/",
        ("SVHN", ({"split": "train"}, {"split": "test"})),
    ),
    "sun397": Original(
        photos.sun397,
        ("SUN397/sun397_tfds_tr.txt", "SUN397/sun397_tfds_va.txt", "SUN397/sun397_tfds_te.txt", "SUN397/a"),
        {"train": 76_128, "validation": 10_875, "test": 21_750},
        ("validation", 0),
        ("test", 0),
        39_100,
        "SUN397.tar.gz of https://vision.princeton.edu/projects/2010/SUN/ unpacked to SUN397/, and TFDS's three lists "
        "sun397_tfds_{tr,va,te}.txt (tensorflow_datasets/image_classification in "
        "https://github.com/tensorflow/datasets) beside its folders a to z",
        probes=("bbfe318c912bf278", "ed3f4079a4f342a7"),
        notes=("vtab/sun397: original pixels; TFDS and the processed folder hold smaller, re-encoded images",),
    ),
    "patch_camelyon": Original(
        arrays.patch_camelyon,
        tuple(f"pcam/camelyonpatch_level_2_split_{name}_x.h5" for name in ("train", "valid", "test")),
        {"train": 262_144, "validation": 32_768, "test": 32_768},
        ("validation", 0),
        ("test", 0),
        8_000,
        "the six .h5 files of https://zenodo.org/records/2546921, unpacked to pcam/",
        ("PCAM", ({"split": "train"}, {"split": "val"}, {"split": "test"})),
        ("c1122cb7e413b8b3", "b3998b44bc8423a1"),
    ),
    "eurosat": Original(
        photos.eurosat,
        ("eurosat/2750",),
        {"train": 27_000},
        ("train", 60),
        ("train", 80),
        94,
        "EuroSAT.zip (RGB) of https://huggingface.co/datasets/torchgeo/eurosat, unpacked to eurosat/",
        ("EuroSAT", ({},)),
        ("7dac90dec1b73063", "5c9a3ab3702faf20"),
    ),
    "resisc45": Original(
        photos.resisc45,
        ("NWPU-RESISC45/airplane",),
        {"train": 31_500},
        ("train", 60),
        ("train", 80),
        425,
        "NWPU-RESISC45.rar (OneDrive, linked from https://www.tensorflow.org/datasets/catalog/resisc45), "
        "unpacked to NWPU-RESISC45/",
        probes=("7c42d524f21f8a68", "2a2bb0da49b4bb17"),
    ),
    "clevr_count": Original(scenes.clevr_count, **_CLEVR),
    "clevr_dist": Original(scenes.clevr_dist, **_CLEVR),
    "dmlab": Original(
        scenes.dmlab,
        ("dmlab/dmlab-train.tfrecord*", "dmlab/dmlab-validation.tfrecord*", "dmlab/dmlab-test.tfrecord*"),
        {"train": 65_550, "validation": 22_628, "test": 22_735},
        ("validation", 0),
        ("test", 0),
        3_000,
        "https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz, unpacked to dmlab/",
    ),
    "kitti": Original(
        scenes.kitti,
        ("Kitti/raw/training/image_2", "Kitti/raw/training/label_2"),
        {"train": 6_347, "validation": 423, "test": 711},
        ("validation", 0),
        ("test", 0),
        12_600,
        "data_object_image_2.zip, data_object_label_2.zip and devkit_object.zip of "
        "https://s3.eu-central-1.amazonaws.com/avg-kitti/, unpacked to Kitti/raw/ (the devkit to its devkit_object/)",
        ("Kitti", ({},)),
    ),
    "dsprites_loc": Original(arrays.dsprites_loc, **_DSPRITES),
    "dsprites_ori": Original(arrays.dsprites_ori, **_DSPRITES),
    "smallnorb_azi": Original(arrays.smallnorb_azi, **_SMALLNORB),
    "smallnorb_ele": Original(arrays.smallnorb_ele, **_SMALLNORB),
}

# cifar100 is read by the `torchvision` kind, which checks the archive's MD5
BY_TORCHVISION = ("cifar100",)
UNAVAILABLE = {
    "diabetic_retinopathy": "Kaggle gives its images to registered users only, and VTAB's are a processed form of them "
    "(btgraham-300) that is not rebuilt here"
}
