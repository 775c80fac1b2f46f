"""What `train.last_block=read` spares of a cell: found once, ahead of training, and used for all of its passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peftbench.backbones.base import Backbone, Site
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batches
from peftbench.train.leading import leading_alone, reader
from peftbench.train.loss import LossFn
from peftbench.train.options import TrainSpec

# what takes each token by itself behind the last attention, the dearest first: of the last block, and behind all blocks
OF_BLOCK, BEHIND = ("mlp", "attn.proj", "norm.2"), ("norm.final",)
NUM_SAMPLES = 4


@dataclass(frozen=True)
class LastBlock:
    """Places of the last block whose first `num_tokens` tokens alone are read; `why` none is, in words, if none is."""

    places: tuple[Site, ...] = ()
    num_tokens: int = 0
    why: str = ""

    @property
    def facts(self) -> dict[str, str | list[str]]:
        """What the record says: `read`, the roles of the places that run for the tokens that are read, or `why` not."""
        return {"why": self.why} if self.why else {"read": [site.shape.role for site in self.places]}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the places run for these tokens alone. A method may be folded in before, not meanwhile."""
        with leading_alone([site.module for site in self.places], self.num_tokens):
            yield


WHOLE = LastBlock(why="train.last_block=all")


def last_block(model: TaskModel, loss_fn: LossFn, batches: Batches, train: TrainSpec) -> LastBlock:
    """The places of a model's last block that can run for the read tokens alone, where `train` asks for it.

    batches: of training; what the loss reads of a pass over the first samples decides, whatever method and objective
    do.
    """
    if train.last_block == "all":
        return WHOLE
    image = model.backbone.towers.get("image")
    num_tokens = None if image is None else image.num_pooled
    if image is None or num_tokens is None:
        return LastBlock(why="the network pools all tokens")
    places = places_of(image)
    if not places:
        return LastBlock(why=f"the last block of {image.shape.family} has no places that take each token by itself")
    probe = {name: values[:NUM_SAMPLES] for name, values in next(iter(batches.epoch(0))).items()}

    def reads(sites: tuple[Site, ...]) -> str:
        modules = [site.module for site in sites]
        return reader(modules, num_tokens, model, loss_fn, probe, model.inputs, train.precision)

    if not reads(places):
        return LastBlock(places, num_tokens)
    # one after the other, where not all do
    read: tuple[Site, ...] = ()
    reasons = []
    for site in places:
        if reason := reads((*read, site)):
            reasons.append(reason)
        else:
            read = (*read, site)
    return LastBlock(read, num_tokens) if read else LastBlock(why=reasons[0])


def recorded(model: TaskModel, facts: object) -> LastBlock:
    """What a cell used of its last block, from what its record says (`LastBlock.facts`)."""
    roles = facts.get("read", ()) if isinstance(facts, dict) else ()
    if not roles:
        return WHOLE
    image = model.backbone.towers["image"]
    return LastBlock(tuple(site for site in places_of(image) if site.shape.role in roles), image.num_pooled or 0)


def places_of(image: Backbone) -> tuple[Site, ...]:
    """The places of a network of images behind its last attention that take each token by itself, the dearest first."""
    sites, last = image.all_sites, image.shape.depth - 1
    found = [site for role in OF_BLOCK for site in sites if site.shape.role == role and site.layer == last]
    return (*found, *(site for role in BEHIND for site in sites if site.shape.role == role))
