"""Facts of the five fine-grained datasets with the splits of VPT (Jia et al., ECCV 2022, arXiv:2203.12119)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FgvcTask:
    """One dataset. `num_train` + `num_val` is the official training set; their 9:1 cut is VPT's.

    `folders`: names of its folder, in order of preference. `image_roots`: where the paths of the lists start, inside
    that folder. `images_from`: where the images can be had and what must be done by hand. `licence`: as its authors
    state it; read their page before use.
    """

    num_classes: int
    num_train: int
    num_val: int
    num_test: int
    folders: tuple[str, ...]
    image_roots: tuple[str, ...]
    spellings: tuple[str, ...]
    megabytes: int
    images_from: str
    licence: str
    metric: str = "accuracy"


FGVC_TASKS: dict[str, FgvcTask] = {
    "cub200": FgvcTask(
        200,
        5_394,
        600,
        5_794,
        folders=("CUB_200_2011", "cub200", "cub"),
        image_roots=("images", ""),
        spellings=("cub", "CUB", "cub2011", "CUB_200_2011"),
        megabytes=1_150,
        images_from="CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011/, unpacked",
        licence="non-commercial research and education",
    ),
    "nabirds": FgvcTask(
        555,
        21_536,
        2_393,
        24_633,
        folders=("nabirds",),
        image_roots=("images", ""),
        spellings=("NABirds",),
        megabytes=10_000,
        images_from="nabirds.tar.gz from https://dl.allaboutbirds.org/nabirds after agreeing to its terms, unpacked",
        licence="terms of the Cornell Lab of Ornithology: non-commercial",
    ),
    "oxford_flowers": FgvcTask(
        102,
        1_020,
        1_020,
        6_149,
        folders=("OxfordFlower", "oxfordflower", "oxford_flowers", "OxfordFlowers"),
        image_roots=("", "jpg"),
        spellings=("OxfordFlowers", "OxfordFlower", "oxfordflower"),
        megabytes=345,
        images_from="102flowers.tgz from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, unpacked (folder jpg)",
        licence="none stated",
    ),
    "stanford_dogs": FgvcTask(
        120,
        10_800,
        1_200,
        8_580,
        folders=("StanfordDogs", "stanforddogs", "stanford_dogs"),
        image_roots=("Images", "images", ""),
        spellings=("StanfordDogs", "stanforddogs", "stanforddog", "dogs"),
        megabytes=794,
        images_from="images.tar from http://vision.stanford.edu/aditya86/ImageNetDogs/, unpacked (folder Images)",
        licence="none stated; the images are ImageNet's: non-commercial research",
    ),
    "stanford_cars": FgvcTask(
        196,
        7_329,
        815,
        8_041,
        folders=("StanfordCars", "stanfordcars", "stanford_cars"),
        image_roots=("",),
        spellings=("StanfordCars", "stanfordcars", "stanfordcar", "cars", "cars196"),
        megabytes=1_960,
        images_from="car_ims.tgz from a mirror (the original host is gone), unpacked (folder car_ims, six-digit names)",
        licence="non-commercial research",
    ),
}


def canonical_fgvc(name: str) -> str:
    """The id of the dataset called `name`: an id, a folder name or a known spelling; else `name` itself."""
    for task, facts in FGVC_TASKS.items():
        if name in (task, *facts.folders, *facts.spellings):
            return task
    return name
