"""The evolutionary search of NOAH (arXiv:2206.04673, released code): over sizes, block by block, of three modules."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

# of the released search: parents kept, chance that a kind of module mutates, chance that its depth is drawn anew then
NUM_PARENTS, MUTATION_RATE, DEPTH_RATE = 10, 0.2, 0.4
TRIES = 10
RANDOM_TRIES = 1000

# for each kind of module (prompts, LoRA, adapter) its size in every block, 0 behind its depth
Subnet = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Space:
    """Sub-nets: each of `num_kinds` modules stands in the first blocks, `depths` of them, with a free size in each."""

    sizes: Sequence[int]
    depths: Sequence[int]
    num_blocks: int
    num_kinds: int = 3

    def draw(self, chance: random.Random) -> Subnet:
        return tuple(self._sized((), chance.choice(self.depths), chance) for _ in range(self.num_kinds))

    def mutate(self, parent: Subnet, chance: random.Random) -> Subnet:
        """A kind that mutates may take another depth; sizes change only where blocks come in (as in the code)."""
        child = []
        for sizes in parent:
            if chance.random() < MUTATION_RATE and chance.random() < DEPTH_RATE:
                present = tuple(size for size in sizes if size)
                child.append(self._sized(present, chance.choice(self.depths), chance))
            else:
                child.append(sizes)
        return tuple(child)

    def cross(self, first: Subnet, second: Subnet, chance: random.Random) -> Subnet:
        """Each kind from either parent."""
        return tuple(chance.choice(pair) for pair in zip(first, second, strict=True))

    def _sized(self, present: tuple[int, ...], depth: int, chance: random.Random) -> tuple[int, ...]:
        kept = present[:depth]
        new = tuple(chance.choice(self.sizes) for _ in range(depth - len(kept)))
        return kept + new + (0,) * (self.num_blocks - depth)


def evolve(
    space: Space,
    score: Callable[[Subnet], float],
    is_legal: Callable[[Subnet], bool],
    population: int,
    generations: int,
    chance: random.Random,
) -> Subnet | None:
    """The best of all sub-nets scored, the first of equals; None when no legal one was met.

    The first generation is random. Of every other one, half are mutations of the best so far and half are crossovers
    of two of them; random ones fill up what these leave open. Nothing is scored twice.
    """
    scores: dict[Subnet, float] = {}
    parents: list[Subnet] = []

    def mutated(of: list[Subnet]) -> Subnet:
        return space.mutate(chance.choice(of), chance)

    def crossed(of: list[Subnet]) -> Subnet:
        return space.cross(chance.choice(of), chance.choice(of), chance)

    def take(draw: Callable[[], Subnet], wanted: int, tries: int) -> None:
        for _ in range(tries * wanted):
            if wanted == 0:
                return
            candidate = draw()
            if candidate not in scores and is_legal(candidate):
                scores[candidate] = score(candidate)
                wanted -= 1

    for generation in range(1, generations + 1):
        if parents:
            half = population // 2
            take(partial(mutated, parents), half, TRIES)
            take(partial(crossed, parents), half, TRIES)
        take(lambda: space.draw(chance), max(generation * population - len(scores), 0), RANDOM_TRIES)
        parents = sorted(scores, key=lambda subnet: -scores[subnet])[:NUM_PARENTS]
    return parents[0] if parents else None
