"""Every method and objective for two epochs through the command line, then the leaderboard: does each cell run?

    python scripts/smoke.py [RESULTS]

The accuracies mean nothing.
"""

from __future__ import annotations

import subprocess
import sys

from peftbench.methods.base import METHODS
from peftbench.objectives.base import OBJECTIVES

SETTINGS = ["train=smoke", "train.batch_size=125", "train.precision=bf16"]


def main() -> int:
    results = sys.argv[1] if len(sys.argv) > 1 else "results/work/smoke"
    python = [sys.executable, "-m", "peftbench"]
    # noah_subnet names the blocks of a larger network; the search needs small numbers
    pairs = [name for name in METHODS.names() if METHODS.get(name).of_pairs]
    tasks = [name for name in METHODS.names() if METHODS.get(name).by_task]
    mixing = [name for name in METHODS.names() if METHODS.get(name).mixes_time]
    alone = [name for name in METHODS.names() if name not in {*pairs, *tasks, *mixing}]
    of_any = [part for part in map(OBJECTIVES.get, OBJECTIVES.names()) if not (part.of_pairs or part.of_method)]
    objectives = ",".join(part.name for part in of_any)
    images = ",".join(name for name in alone if not name.startswith("noah"))
    search = ["supernet_epochs=1", "population=4", "generations=2"]
    cells = (
        [f"method={images}", "dataset=digits"],
        ["method=noah_supernet", *(f"method.{option}" for option in search), "dataset=digits"],
        ["method=lora", f"objective={objectives}", "dataset=digits"],
        [f"method={','.join(pairs)}", "backbone=pair_micro", "dataset=named_shapes", "protocol=fewshot_coop"],
        [f"method={','.join(mixing)}", "dataset=moving_shapes", "dataset.frames=5"],
        [f"method={','.join(tasks)}", "task=several", "dataset=scenes"],
    )
    sweeps = [
        subprocess.run([*python, "-m", *words, f"runtime.results={results}", *SETTINGS], check=False).returncode
        for words in cells
    ]
    table = subprocess.run([*python, "leaderboard", "--results", results], check=False)
    return max(sweeps) or table.returncode


if __name__ == "__main__":
    sys.exit(main())
