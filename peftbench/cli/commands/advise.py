"""`python -m peftbench advise dataset=folder dataset.root=PHOTOS`: the method to take, trained and tested."""

from __future__ import annotations

import sys

from peftbench.advise.advise import Adviser
from peftbench.advise.request import read_request
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.terminal import print_fitted

HELP = """usage: python -m peftbench advise dataset=folder dataset.root=PHOTOS [budget=30m memory=8GB params=1M]
                                  [backbone=...] [out=DIR] [any other option of a cell]

Looks at the images, races methods and learning rates on validation images within the budget, trains the winner on
everything, reads the test images once, and leaves model.safetensors and advice.html in advice/NAME (or out=DIR).
Every trial is a record; the same words go on where an interrupted race stopped.
"""


def main(words: list[str]) -> int:
    """Exit code 0 with an advice, 130 when interrupted; the best so far is exported then."""
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    if not words:
        raise ConfigError(
            ["advise: name the images, as dataset=folder dataset.root=PHOTOS; see python -m peftbench advise -h"]
        )
    adviser = Adviser(read_request(words), print_fitted)
    try:
        advice = adviser.run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        print_fitted("\n".join(adviser.keep_best()))
        return 130
    print_fitted("\n" + "\n".join(advice.lines))
    in_python, command = advice.use
    print(f"\nmodel {advice.model}\npage  {advice.page}\n\nuse it:\n{in_python}\nor: {command}")
    return 0
