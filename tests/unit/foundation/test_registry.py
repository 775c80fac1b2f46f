"""The registry: a package finds its own classes, a wrong name is answered with the nearest."""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.foundation.plugins import VARIABLE, load_plugins
from peftbench.foundation.registry import Registry


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Any]]:
    """A package with a registry in `base` and two classes in modules nobody imports."""
    package = tmp_path / "kitchen_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "from peftbench.foundation.registry import Registry\nTOOLS = Registry('tool', 'kitchen_for_tests')\n"
    )
    for name in ("whisk", "ladle"):
        (package / f"{name}.py").write_text(
            f'from kitchen_for_tests.base import TOOLS\n\n@TOOLS.add("{name}")\nclass Tool:\n    pass\n'
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("kitchen_for_tests.base").TOOLS
    for module in [name for name in sys.modules if name.startswith("kitchen_for_tests")]:
        del sys.modules[module]


def test_adding_a_file_is_enough(kitchen: Registry[Any]) -> None:
    assert kitchen.names() == ["ladle", "whisk"]
    assert kitchen.get("whisk").__module__ == "kitchen_for_tests.whisk"


def test_a_name_imports_the_files_that_speak_of_it_and_no_others(kitchen: Registry[Any]) -> None:
    assert kitchen.get("whisk").__module__ == "kitchen_for_tests.whisk"
    assert "kitchen_for_tests.ladle" not in sys.modules
    assert kitchen.names() == ["ladle", "whisk"], "which a question for all names mends"


def test_plug_ins_come_behind_the_whole_package(
    kitchen: Registry[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a plug-in's class could stand where the package's own of that name was not imported yet."""
    (tmp_path / "extras").mkdir()
    (tmp_path / "extras" / "own.py").write_text(
        "from kitchen_for_tests.base import TOOLS\n\n@TOOLS.add('ladle')\nclass Own:\n    pass\n"
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path / "extras"))
    with pytest.raises(BadInput, match=r"own\.py cannot be imported.*'ladle' is already defined by kitchen"):
        kitchen.get("whisk")


def test_a_plug_in_with_the_name_of_a_class_that_is_read_later_is_named(
    kitchen: Registry[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the plug-in was imported for another registry."""
    (tmp_path / "extras").mkdir()
    (tmp_path / "extras" / "own.py").write_text(
        "from kitchen_for_tests.base import TOOLS\n\n@TOOLS.add('ladle')\nclass Own:\n    pass\n"
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path / "extras"))
    load_plugins()
    with pytest.raises(BadInput, match=r"extras/own\.py: there is a tool 'ladle'; give yours another name"):
        kitchen.get("whisk")


@dataclass(frozen=True)
class Base(ABC):
    """What the classes of `SPOONS` are built on."""

    length: int = 1

    @abstractmethod
    def stir(self) -> None: ...


def test_classes_that_are_not_finished_say_what_they_lack() -> None:
    spoons: Registry[Base] = Registry("spoon", base=Base)
    with pytest.raises(TypeError, match="spoon 'knife': Knife is not built on Base"):
        spoons.add("knife")(type("Knife", (), {}))

    @spoons.add("bare")
    class Bare(Base):
        width: int = 2

        def stir(self) -> None: ...

    @spoons.add("mute")
    @dataclass(frozen=True)
    class Mute(Base):
        width: int = 2

    @dataclass(frozen=True)
    @spoons.add("whole")
    class Whole(Base):
        kind: ClassVar[str] = "wood"
        width: int = 2

        def stir(self) -> None: ...

    @spoons.add("same")
    class Same(Whole):
        kind: ClassVar[str] = "steel"

    with pytest.raises(BadInput, match=r"test_registry\.py: .*Bare of spoon 'bare' has options and is no dataclass"):
        spoons.get("bare")
    with pytest.raises(BadInput, match=r"Mute of spoon 'mute' lacks stir"):
        spoons.get("mute")
    assert spoons.get("whole") is Whole and spoons.get("same") is Same, "in either order, or with no field of its own"


def test_a_class_knows_the_name_it_is_registered_under(kitchen: Registry[Any]) -> None:
    assert kitchen.get("ladle").name == "ladle"


def test_a_wrong_name_is_answered_with_the_nearest(kitchen: Registry[Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        kitchen.get("wisk")
    assert caught.value.problems == ["unknown tool 'wisk'; did you mean 'whisk'?"]


def test_a_name_near_to_nothing_is_answered_with_the_list_and_where_own_ones_are_read_from(
    kitchen: Registry[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "one of your own is read from the folders that PEFTBENCH_PLUGINS names"
    said = f"unknown tool 'fork'; known: ladle, whisk; {where}"
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError) as caught:
        kitchen.get("fork")
    assert caught.value.problems == [said]
    (tmp_path / "extras").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "extras"))
    with pytest.raises(ConfigError) as caught:
        kitchen.get("fork")
    assert caught.value.problems == [f"{said}, now {tmp_path / 'extras'}"]


def test_a_second_class_under_one_name_is_refused_and_says_where_the_first_is(kitchen: Registry[Any]) -> None:
    first = kitchen.get("whisk")
    with pytest.raises(ValueError, match=r"tool 'whisk' is already defined by kitchen_for_tests\.whisk\.Tool"):
        kitchen.add("whisk")(type("Other", (), {}))
    assert kitchen.get("whisk") is first
