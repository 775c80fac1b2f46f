"""Outlines: a file's options and checks without its imports, and when there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftbench.foundation.errors import ConfigError
from peftbench.foundation.outline import NoOutline, OutlineRegistry, outline
from peftbench.foundation.spec import build

BASE = """
from __future__ import annotations
from dataclasses import dataclass
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import Spec, option
import heavy_thing
TOOLS = Registry("tool", "shed_for_tests")

@dataclass(frozen=True)
class Tool(Spec):
    section = "tool"

    def use(self) -> heavy_thing.Result:
        return heavy_thing.use(self)
"""
HEAD = """
from __future__ import annotations
from dataclasses import dataclass
import heavy_thing
from heavy_thing import Engine, SIZES
from peftbench.foundation.spec import option
from shed_for_tests.base import TOOLS, Tool
"""
FILES = {
    "base": BASE,
    "saw": HEAD
    + """
class Motor(Engine):
    speed = heavy_thing.FAST

@TOOLS.add("saw")
@dataclass(frozen=True)
class Saw(Tool):
    teeth: int = option(8, ge=1)
    def problems(self):
        return ["tool.teeth must be even"] if self.teeth % 2 else []

@TOOLS.add("measured")
@dataclass(frozen=True)
class Measured(Tool):
    size: int = option(1)
    def problems(self):
        return [] if self.size in SIZES else ["wrong size"]

@TOOLS.add("motor_saw")
@dataclass(frozen=True)
class MotorSaw(Engine, Tool):
    teeth: int = option(8)

@TOOLS.add("sized")
@dataclass(frozen=True)
class Sized(Tool):
    size: int = option(heavy_thing.SIZE)
""",
    "curious": HEAD
    + """
if heavy_thing.is_here():
    pass

@TOOLS.add("curious")
class Curious(Tool):
    pass
""",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OutlineRegistry[Any]]:
    """A package whose files import a module that does not exist."""
    package = tmp_path / "shed_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in FILES.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield outline("shed_for_tests.base").TOOLS
    for module in [name for name in sys.modules if "shed_for_tests" in name]:
        del sys.modules[module]


def test_options_limits_and_checks_are_there_without_the_imports(tools: OutlineRegistry[Any]) -> None:
    saw = tools.find("saw")
    assert vars(build(saw, {"teeth": "6"})) == {"teeth": 6}
    for teeth, message in ((0, "at least 1"), (3, "must be even")):
        with pytest.raises(ConfigError, match=message):
            build(saw, {"teeth": teeth})
    assert "heavy_thing" not in sys.modules and saw.name == "saw"


def test_a_check_that_needs_an_import_says_so_instead_of_guessing(tools: OutlineRegistry[Any]) -> None:
    with pytest.raises(NoOutline, match="heavy_thing"):
        build(tools.find("measured"), {"size": 1})


@pytest.mark.parametrize("name", ["motor_saw", "sized", "curious", "nosuch"])
def test_what_hangs_on_an_import_has_no_outline(name: str, tools: OutlineRegistry[Any]) -> None:
    with pytest.raises(NoOutline):
        tools.find(name)
