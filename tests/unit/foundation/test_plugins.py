"""A method, a backbone and yaml files from outside the package are there like the package's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.config.gate import config_dir
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.plugins import VARIABLE, Plugin, load_plugins, plugins, with_plugin_configs
from tests.conftest import REPOSITORY

METHOD = '''
"""A scale on the channels behind each MLP."""
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.interventions import ScaleShift
from peftbench.methods.base import METHODS, Method


@METHODS.add("mine")
@dataclass(frozen=True)
class Mine(Method):
    """y = scale * x + shift behind each MLP."""

    family: ClassVar[str] = "scale and shift"
    paper: ClassVar[str] = "not published"
    identity_at_init: ClassVar[bool] = False

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("mlp"):
            site.wrap(partial(ScaleShift, width=site.shape.out_dim, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * site.out_dim for site in shape.at("mlp"))
'''
BACKBONE = """
from timm.models import register_model

from peftbench.backbones.vit_micro import vit_micro_patch4_32


@register_model
def vit_of_mine(pretrained: bool = False, **kwargs):
    return vit_micro_patch4_32(pretrained, **({"depth": 2} | kwargs))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plug-in with a method and a backbone."""
    root = tmp_path / "extras"
    (root / "configs" / "method").mkdir(parents=True)
    (root / "configs" / "backbone").mkdir()
    (root / "mine.py").write_text(METHOD)
    (root / "nets.py").write_text(BACKBONE)
    (root / "configs" / "method" / "mine.yaml").write_text(
        '# @package _global_\ndefaults: ["/schema/method/mine@method"]\n'
    )
    (root / "configs" / "backbone" / "of_mine.yaml").write_text(
        "# @package backbone\ndefaults: [/schema/backbone@_here_]\ntitle: of_mine\nmodel: vit_of_mine\nweights: none\n"
    )
    return root


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PEFTBENCH_CACHE": str(cwd / "cache"), **environment}
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=cwd, env=variables)


@pytest.mark.slow
def test_a_cell_of_a_plug_ins_method_and_backbone_runs(folder: Path, tmp_path: Path) -> None:
    words = ("peftbench", "method=mine", "backbone=of_mine", "dataset=digits", "train=smoke", "runtime.progress=false")
    result = run(*words, cwd=tmp_path, **{VARIABLE: str(folder)})
    assert result.returncode == 0, result.stderr
    # scale and shift of width 128 in two blocks
    assert "mine on digits (of_mine, seed 0)" in result.stdout and "512 + 1,290 trainable" in result.stdout
    without = run(*words, cwd=tmp_path)
    assert without.returncode == 2 and "method has no choice 'mine'" in without.stderr


def test_a_plug_in_that_cannot_be_imported_names_its_file(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.py").write_text("import no_such_library\n")
    result = run("peftbench", "method=mine", "train=smoke", cwd=tmp_path, **{VARIABLE: str(folder)})
    assert result.returncode == 2 and "broken.py cannot be imported: ModuleNotFoundError" in result.stderr


def test_a_method_without_its_yaml_file_says_which_one(folder: Path, tmp_path: Path) -> None:
    (folder / "configs" / "method" / "mine.yaml").unlink()
    result = run("peftbench", "method=mine", "train=smoke", cwd=tmp_path, **{VARIABLE: str(folder)})
    assert result.returncode == 2 and "the plug-in lacks configs/method/mine.yaml" in result.stderr


def test_a_package_with_a_broken_package_inside_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "peft_of_theirs"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("def broken(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("peftbench.foundation.plugins.plugins", lambda: (Plugin(package, package.name),))
    with pytest.raises(BadInput, match="peft_of_theirs cannot be imported: SyntaxError"):
        load_plugins()


def test_yaml_files_join_the_shipped_ones_and_never_replace_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = config_dir()
    monkeypatch.setenv(VARIABLE, str(folder))
    joined = with_plugin_configs(shipped)
    assert (joined / "method" / "mine.yaml").is_file() and (joined / "method" / "lora.yaml").is_file()
    assert with_plugin_configs(shipped) == joined
    (folder / "configs" / "method" / "lora.yaml").write_text("")
    with pytest.raises(BadInput, match=r"lora\.yaml has the name of"):
        with_plugin_configs(shipped)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('defaults: ["/schema/method/mine@method"]\n', "lacks its first line '# @package _global_'"),
        ("optim:\n   lr: 0.01\n  x: [\n", r"mine\.yaml is no YAML: while parsing"),
        ("# @package _global_\noptim:\n  lr: 0.01\n", "no list 'defaults'"),
        ("", "no list 'defaults'"),
    ],
)
def test_a_yaml_file_that_cannot_work_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    shipped = config_dir()
    monkeypatch.setenv(VARIABLE, str(folder))
    path = folder / "configs" / "method" / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=why) as caught:
        with_plugin_configs(shipped)
    assert str(path) in str(caught.value)
    path.write_text('# @package _global_\ndefaults: ["/schema/method/mine@method"]\noptim: {lr: 0.01}\n')
    assert (with_plugin_configs(shipped) / "method" / "mine.yaml").is_file()


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/no/such/folder")
    with pytest.raises(MissingInput, match="PEFTBENCH_PLUGINS=/no/such/folder"):
        plugins()


def test_a_plug_in_that_leaves_python_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.py").write_text("raise SystemExit('not today')\n")
    result = run("peftbench", "method=mine", "train=smoke", cwd=tmp_path, **{VARIABLE: str(folder)})
    assert result.returncode == 2 and "broken.py cannot be imported: SystemExit: not today" in result.stderr


def test_an_error_in_a_plug_ins_code_is_said_to_be_its_own(folder: Path, tmp_path: Path) -> None:
    raising = METHOD + "\n    def __post_init__(self) -> None:\n        raise ValueError('no')\n"
    (folder / "mine.py").write_text(raising)
    result = run("peftbench", "method=mine", "train=smoke", cwd=tmp_path, **{VARIABLE: str(folder)})
    line = len(raising.splitlines())
    where = (
        f"unexpected ValueError: no; this is a fault of the plug-in {folder / 'mine.py'}, line {line}, its traceback"
    )
    assert result.returncode == 1 and where in result.stderr


@pytest.mark.slow
def test_a_cell_that_is_done_says_when_its_plug_in_has_changed(folder: Path, tmp_path: Path) -> None:
    few = ("backbone.img_size=16", "train.batch_size=250", "train=smoke", "runtime.progress=false")
    words = ("peftbench", "method=mine", "dataset=digits", *few)
    note = "note: the plug-in extras has changed since this of mine was measured; runtime.on_existing=rerun measures it"

    def said(*more: str) -> tuple[str, str]:
        result = run(*words, *more, cwd=tmp_path, **{VARIABLE: str(folder)})
        assert result.returncode == 0, result.stderr
        return result.stdout.partition(":")[0], result.stderr

    assert said() == ("mine on digits (vit_micro, seed 0)", "")
    assert said() == ("already done", "")
    (folder / "mine.py").write_text(METHOD.replace("site.shape.out_dim", "site.shape.in_dim"))
    for _ in range(2):
        done, errors = said()
        assert done == "already done" and errors.startswith(note)
    _, errors = said("-m")
    assert errors.startswith(note)
    assert said("runtime.on_existing=rerun") == ("mine on digits (vit_micro, seed 0)", "")
    assert said() == ("already done", "")


@pytest.mark.slow
def test_contracts_run_for_a_plug_ins_method_from_anywhere_without_a_warning(folder: Path, tmp_path: Path) -> None:
    chosen = "mine and vit_cls and (trainable or identity)"
    words = ("pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "peftbench.contracts", "-k", chosen)
    result = run(*words, cwd=tmp_path, **{VARIABLE: str(folder)})
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout and "warning" not in result.stdout


@pytest.mark.slow
def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    package = tmp_path / "site" / "peft_of_mine"
    (package / "configs" / "method").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(METHOD)
    (package / "configs" / "method" / "mine.yaml").write_text(
        '# @package _global_\ndefaults: ["/schema/method/mine@method"]\n'
    )
    facts = tmp_path / "site" / "peft_of_mine-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: peft-of-mine\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[peftbench.plugins]\nmine = peft_of_mine\n")
    code = "import peftbench; print('mine' in set(peftbench.methods()['method']))"
    variables = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path / 'site'}"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    assert result.stdout.strip() == "True"
