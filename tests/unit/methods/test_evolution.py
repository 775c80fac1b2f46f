"""The search over sub-nets finds what is best, stays within its limit, and follows its seed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from peftbench.methods.evolution import Space, Subnet, evolve

SPACE = Space(sizes=(1, 5, 10), depths=(1, 2, 4), num_blocks=4)


def size(subnet: Subnet) -> int:
    return sum(map(sum, subnet))


def valid(subnet: Subnet) -> bool:
    """Three kinds, each with sizes in its first blocks and zeros behind."""
    depths = [sum(map(bool, sizes)) for sizes in subnet]
    return (
        len(subnet) == 3
        and all(len(sizes) == 4 and set(sizes) <= {0, 1, 5, 10} for sizes in subnet)
        and all(depth in (1, 2, 4) and 0 not in sizes[:depth] for depth, sizes in zip(depths, subnet, strict=True))
    )


@given(st.integers(0, 2**32))
def test_offspring_stay_in_the_space(seed: int) -> None:
    chance = random.Random(seed)
    first, second = SPACE.draw(chance), SPACE.draw(chance)
    mutant, child = SPACE.mutate(first, chance), SPACE.cross(first, second, chance)
    assert all(map(valid, (first, second, mutant, child)))
    # blocks that stay keep their sizes
    assert all(
        a == b or not a or not b for old, new in zip(first, mutant, strict=True) for a, b in zip(old, new, strict=True)
    )
    assert all(new in pair for new, pair in zip(child, zip(first, second, strict=True), strict=True))


def test_more_generations_come_closer_to_the_best() -> None:
    def found(generations: int) -> int:
        best = evolve(SPACE, size, lambda _: True, 20, generations, random.Random(3))
        assert best is not None
        return size(best)

    assert found(1) < found(15) <= 120
    assert found(15) >= 100


def test_nothing_beyond_the_limit_is_scored_and_nothing_twice() -> None:
    scored: list[Subnet] = []

    def score(subnet: Subnet) -> float:
        scored.append(subnet)
        return size(subnet)

    best = evolve(SPACE, score, lambda subnet: size(subnet) <= 40, 10, 4, random.Random(1))
    assert best is not None and size(best) == max(map(size, scored)) <= 40
    assert len(set(scored)) == len(scored) == 40


def test_a_small_space_ends_and_an_empty_one_gives_nothing() -> None:
    tiny = Space(sizes=(1,), depths=(1, 2), num_blocks=2)
    scored: list[Subnet] = []
    evolve(tiny, lambda subnet: scored.append(subnet) or 0.0, lambda _: True, 10, 2, random.Random(0))  # type: ignore[func-returns-value]
    assert len(set(scored)) == len(scored) == 8
    assert evolve(tiny, size, lambda _: False, 2, 1, random.Random(0)) is None


def test_of_equals_the_first_wins_and_the_seed_decides() -> None:
    def run(seed: int) -> tuple[list[Subnet], Subnet | None]:
        scored: list[Subnet] = []
        best = evolve(SPACE, lambda s: scored.append(s) or 0.5, lambda _: True, 6, 3, random.Random(seed))  # type: ignore[func-returns-value]
        return scored, best

    assert run(0) == run(0) and run(0)[1] == run(0)[0][0]
    assert run(0)[0] != run(1)[0]
