"""`data verify`: decode every image and name all that is wrong."""

from __future__ import annotations

import argparse

from peftbench.cli.data.composed import divided
from peftbench.data.sources.obstacles import collecting
from peftbench.data.verify import verify
from peftbench.foundation.digests import read_anew
from peftbench.foundation.errors import BadInput
from peftbench.foundation.progress import Progress
from peftbench.foundation.terminal import number_of, print_fitted


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0; 1 when there are problems. Raises `BadInput` with all that was found where nothing can be opened."""
    with collecting() as obstacles:
        try:
            config, runtime, few = divided(arguments)
            source = config.dataset.open()
        except BadInput as error:
            raise BadInput("\n".join([*obstacles, str(error)])) from error
    total = sum(len(source.split(name)) for name in source.whole_splits)
    with Progress(runtime.progress).counted("verifying", total) as step:
        found = verify(source, step)
    found.warnings.extend(few)
    found.problems[:0] = obstacles
    if arguments.deep:
        with read_anew() as differing:
            try:
                found.facts.append(f"all bytes read anew: revision {config.dataset.revision()}")
            except BadInput as error:
                # an obstacle that is known leaves the data without a revision
                found.problems.extend([str(error)] if str(error) not in found.problems else [])
        found.problems.extend(f"{path}: its bytes changed and its times do not show it" for path in sorted(differing))
    print_fitted(f"{config.dataset.label}: {source.membership}, pixels {source.pixels}, test {source.test}")
    doubts = found.doubts
    problems, warnings = found.problems + doubts * arguments.strict, doubts * (not arguments.strict) + found.warnings
    for kind, lines in (("", found.facts), ("warning: ", warnings), ("problem: ", problems)):
        for line in lines:
            print_fitted(f"  {kind}{line}")
    print(f"{number_of(len(problems), 'problem')}, {number_of(len(warnings), 'warning')}")
    if doubts and not arguments.strict:
        print_fitted("data verify --strict ends with exit code 1 for pictures of test in train, or under two labels")
    return 1 if problems else 0
