"""Put the head of the longest table of classes of images of results/leaderboard/leaderboard.md into README.md.

    python scripts/readme_table.py [--check]

With --check nothing is written; exit code 1 says that the README does not show the generated table.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# rows that are shown wherever they stand: what every method is measured against
REFERENCES = ("linear", "full", "lora", "bitfit", "vpt_deep")
NUM_BEST = 10
# a column that tables of clips alone have
OF_CLIPS = "order gap"
# how headings of other tasks than classification begin: `segmentation (miou), vit_micro, ...`
OTHER_TASK = re.compile(r"\w+ \([\w/]+\), ")
MARKERS = re.compile(r"(<!-- leaderboard: [^\n]*-->\n).*?(<!-- end of leaderboard -->)", re.DOTALL)


def with_table(readme: str, leaderboard: str) -> str:
    """The README with the first rows of the longest table of classes of images between its markers."""
    sections = [section for section in leaderboard.split("\n## ")[1:] if not OTHER_TASK.match(section)]
    tables = [table for table in map(_of_table, sections) if OF_CLIPS not in table[1]]
    heading, *lines = max(tables, key=len)
    rows = lines[2:]
    shown = [row for index, row in enumerate(rows) if index < NUM_BEST or row.split("|")[1].strip() in REFERENCES]
    table = "\n".join([*lines[:2], *shown])
    block = (
        f"\n**{heading}**: accuracy in percent on the test split, mean ± standard deviation over seeds. The first "
        f"{min(NUM_BEST, len(rows))} of {len(rows)} rows and the usual references; all rows, with their notes: "
        f"[results/leaderboard/leaderboard.md](results/leaderboard/leaderboard.md); how they were made: "
        f"[results/README.md](results/README.md).\n\n{table}\n\n"
    )
    result, found = MARKERS.subn(lambda match: match[1] + block + match[2], readme)
    if found != 1:
        raise SystemExit("README.md must hold the leaderboard markers once")
    return result


def _of_table(section: str) -> list[str]:
    """The heading of a section, then the lines of its first table."""
    heading, *rest = section.splitlines()
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), rest)
    return [heading, *itertools.takewhile(lambda line: line.startswith("|"), lines)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    wanted = with_table(readme, (ROOT / "results/leaderboard/leaderboard.md").read_text(encoding="utf-8"))
    if arguments.check:
        return int(readme != wanted)
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
