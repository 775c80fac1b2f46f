"""Facts of CoOp's eleven sets (Zhou et al., IJCV 2022, arXiv:2109.01134) and of ImageNet's variants."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CoopSet:
    """One set in the folders that CoOp's DATASETS.md asks for.

    `folder`: below the root; `images`: where the paths of the lists start, inside that folder. `lists`: the name behind
    `split_zhou_` of its JSON lists; none for sets that are read by `reader`: `aircraft`, `imagenet` or `variant`.
    `template`: CoOp's CUSTOM_TEMPLATES (trainers/zsclip.py, MIT). `counts`: images by part. `licence`: as the authors
    of the images state it; read their page before use.
    """

    folder: str
    images: str
    num_classes: int
    counts: dict[str, int]
    megabytes: int
    where: str
    licence: str
    template: str = "a photo of a {}."
    lists: str | None = None
    reader: str = "lists"


def _counts(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


COOP_SETS: dict[str, CoopSet] = {
    "imagenet": CoopSet(
        "imagenet",
        "images",
        1000,
        {"train": 1_281_167, "test": 50_000},
        150_000,
        "the training and validation images of ILSVRC 2012 as images/train/<wnid> and images/val/<wnid>",
        "non-commercial research and education",
        reader="imagenet",
    ),
    "caltech101": CoopSet(
        "caltech-101",
        "101_ObjectCategories",
        100,
        _counts(4_128, 1_649, 2_465),
        137,
        "101_ObjectCategories of Caltech-101 from https://data.caltech.edu/records/mzrjq-6wc02",
        "CC BY 4.0",
        lists="Caltech101",
    ),
    "oxford_pets": CoopSet(
        "oxford_pets",
        "images",
        37,
        _counts(2_944, 736, 3_669),
        792,
        "images.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "CC BY-SA 4.0",
        "a photo of a {}, a type of pet.",
        "OxfordPets",
    ),
    "stanford_cars": CoopSet(
        "stanford_cars",
        "",
        196,
        _counts(6_509, 1_635, 8_041),
        1_960,
        "cars_train and cars_test from a mirror (the original host is gone)",
        "non-commercial research",
        lists="StanfordCars",
    ),
    "oxford_flowers": CoopSet(
        "oxford_flowers",
        "jpg",
        102,
        _counts(4_093, 1_633, 2_463),
        345,
        "102flowers.tgz from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "none stated",
        "a photo of a {}, a type of flower.",
        "OxfordFlowers",
    ),
    "food101": CoopSet(
        "food-101",
        "images",
        101,
        _counts(50_500, 20_200, 30_300),
        5_000,
        "food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        "none stated; the images are foodspotting.com's: research",
        "a photo of {}, a type of food.",
        "Food101",
    ),
    "fgvc_aircraft": CoopSet(
        "fgvc_aircraft",
        "images",
        100,
        _counts(3_334, 3_333, 3_333),
        2_750,
        "data/ of fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/, as this folder",
        "non-commercial research",
        "a photo of a {}, a type of aircraft.",
        reader="aircraft",
    ),
    "sun397": CoopSet(
        "sun397",
        "SUN397",
        397,
        _counts(15_880, 3_970, 19_850),
        37_000,
        "SUN397.tar.gz from https://vision.princeton.edu/projects/2010/SUN/",
        "none stated; research",
        lists="SUN397",
    ),
    "dtd": CoopSet(
        "dtd",
        "images",
        47,
        _counts(2_820, 1_128, 1_692),
        625,
        "dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        "research",
        "{} texture.",
        "DescribableTextures",
    ),
    "eurosat": CoopSet(
        "eurosat",
        "2750",
        10,
        _counts(13_500, 5_400, 8_100),
        94,
        "EuroSAT.zip (RGB) from https://github.com/phelber/eurosat",
        "MIT",
        "a centered satellite photo of {}.",
        "EuroSAT",
    ),
    "ucf101": CoopSet(
        "ucf101",
        "UCF-101-midframes",
        101,
        _counts(7_639, 1_898, 3_783),
        400,
        "UCF-101-midframes.zip, the middle frames that CoOp's DATASETS.md links",
        "none stated; research",
        "a photo of a person doing {}.",
        "UCF101",
    ),
}

# Tested on only, by adapters trained on imagenet.
IMAGENET_VARIANTS: dict[str, CoopSet] = {
    "imagenet_v2": CoopSet(
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        1000,
        {"test": 10_000},
        1_260,
        "imagenetv2-matched-frequency.tar.gz by https://github.com/modestyachts/ImageNetV2",
        "MIT (code); the images are Flickr's",
        reader="variant",
    ),
    "imagenet_sketch": CoopSet(
        "imagenet-sketch",
        "images",
        1000,
        {"test": 50_889},
        7_000,
        "ImageNet-Sketch by https://github.com/HaohanWang/ImageNet-Sketch",
        "none stated",
        reader="variant",
    ),
    "imagenet_a": CoopSet(
        "imagenet-adversarial",
        "imagenet-a",
        200,
        {"test": 7_500},
        690,
        "imagenet-a.tar by https://github.com/hendrycks/natural-adv-examples",
        "MIT (code); the images are Flickr's and iNaturalist's",
        reader="variant",
    ),
    "imagenet_r": CoopSet(
        "imagenet-rendition",
        "imagenet-r",
        200,
        {"test": 30_000},
        2_200,
        "imagenet-r.tar by https://github.com/hendrycks/imagenet-r",
        "MIT (code); the images are Flickr's",
        reader="variant",
    ),
}
ALL_SETS = COOP_SETS | IMAGENET_VARIANTS
