"""Tab completion: commands and their flags, groups, choices, options and their values."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from peftbench.cli.commands.completion import SCRIPT, candidates, main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("peftbench stat", ["status "]),
        ("peftbench data ver", ["verify "]),
        ("peftbench data verify dig", ["digits "]),
        ("peftbench status --", ["--by "]),
        ("peftbench status meth", ["method=", "method."]),
        ("peftbench -m method=lora,bitf", ["method=lora,bitfit "]),
        ("peftbench +suite=vtab/n", ["+suite=vtab/natural "]),
        ("peftbench method=lora method.ra", ["method.rank="]),
        ("peftbench method=vpt method.num", ["method.num_tokens="]),
        ("peftbench train.precision=b", ["train.precision=bf16 "]),
        ("peftbench runtime.save_adapter=f", ["runtime.save_adapter=false "]),
        ("peftbench method.", []),
        ("peftbench method=nosuch method.", []),
        ("peftbench optim.lr=", []),
    ],
)
def test_a_word_is_completed_to_what_may_stand_there(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_bash_gets_what_stands_behind_the_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shell", "bash", "--line", "peftbench dataset=vtab/dt"]) == 0
    assert capsys.readouterr().out == "vtab/dtd \n"
    assert main(["--shell", "zsh", "--line", "peftbench dataset=vtab/dt"]) == 0
    assert capsys.readouterr().out == "dataset=vtab/dtd \n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_completes_in_bash() -> None:
    words = "COMP_LINE='peftbench dataset=dig'; COMP_POINT=${#COMP_LINE}; peftbench() { echo \"$5\"; echo b; }"
    shown = subprocess.run(
        ["bash", "-c", f'{SCRIPT}\n{words}\n_peftbench_complete; printf "%s|" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "peftbench dataset=dig|b|" and not shown.stderr
