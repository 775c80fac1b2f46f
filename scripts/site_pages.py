"""Pages of the documentation site that the code gives: methods, objectives, commands, options, files of the root.

mkdocs calls the two functions with `on_` (`hooks` in mkdocs.yml); nothing is written into docs/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from omegaconf import OmegaConf

from peftbench.cli.help import FIRST, groups_text, options_text
from peftbench.cli.main import COMMANDS
from peftbench.config.choices import content
from peftbench.foundation.spec import default_of
from peftbench.methods.base import METHODS
from peftbench.objectives.base import OBJECTIVES

ROOT = Path(__file__).resolve().parent.parent
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
OWN_METHOD = "index.md#i-have-a-method-of-my-own"
FAMILIES = ("selection", "adapter", "reparametrisation", "prompt", "side")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generated pages get their places, and pages that nobody placed one under "How to"."""
    places: dict[str, list[Any]] = {}
    for entry in config.nav or []:
        places |= {title: inside for title, inside in entry.items() if isinstance(inside, list)}
    known = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    places["How to"] += sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in known)
    families = dict.fromkeys([*FAMILIES, *(METHODS.get(name).family for name in METHODS.names())])
    for family in families:
        own = [name for name in METHODS.names() if METHODS.get(name).family == family]
        places["Methods"].append({family: [{name: f"methods/{name}.md"} for name in own]})
    places["Methods"].append({"objectives": [{name: f"objectives/{name}.md"} for name in OBJECTIVES.names()]})
    places["Reference"] += [{"Commands": "commands.md"}, {"Options": "options.md"}]
    places["Measured"] += [{"Changes": "changelog.md"}, {"Contributing": "contributing.md"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The generated pages join those of docs/."""
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> dict[str, str]:
    """Path in the site -> Markdown."""
    made = {f"methods/{name}.md": part_page("method", name, METHODS.get(name)) for name in METHODS.names()}
    made |= {f"objectives/{name}.md": part_page("objective", name, OBJECTIVES.get(name)) for name in OBJECTIVES.names()}
    made["commands.md"] = commands_page()
    made["options.md"] = options_page()
    for name, page in FROM_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        made[page] = text.replace("](docs/", "](").replace("](README.md#add-a-method)", f"]({OWN_METHOD})")
    return made


def part_page(section: str, name: str, cls: Any) -> str:
    """One method or objective: what its class says, its facts, its options."""
    file = Path(inspect.getfile(cls)).relative_to(ROOT)
    facts = {
        "source": source_link(cls.paper),
        "faithful": cls.faithfulness + (f": {cls.adapted}" if cls.adapted else ""),
        "code": f"`{file}`",
    }
    if section == "method":
        facts |= {
            "function at the start": "unchanged" if cls.identity_at_init else "changed",
            "folds into plain modules": "yes" if cls.mergeable else "no",
            "parameters, where it acts": "[all methods](../methods.md), [by formula](../parameters.md)",
            "backbones": "[families](../families.md)",
        }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value)
    dataset = "moving_shapes" if getattr(cls, "mixes_time", False) else "digits"
    if getattr(cls, "by_task", False):
        dataset = "scenes task=several"
    return f"""# {name}

{plain(inspect.getdoc(cls) or "")}

```
python -m peftbench {section}={name} dataset={dataset}
```

| | |
| --- | --- |
{rows}

## Options

{options_table(section, cls)}

{own_settings(section, name)}"""


def source_link(paper: str) -> str:
    found = re.fullmatch(r"arXiv:(\d{4}\.\d{4,5})", paper)
    return f"[{paper}](https://arxiv.org/abs/{found[1]})" if found else paper


def plain(docstring: str) -> str:
    """A docstring as Markdown: nothing in it is HTML, and `|` stands for a bar."""
    return docstring.replace("&", "&amp;").replace("<", "&lt;")


def options_table(section: str, cls: Any) -> str:
    """Every option with its default and its limits."""
    rows = []
    for field in dataclasses.fields(cls):
        signs = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        limits = [f"{words} {field.metadata[key]}" for key, words in signs.items() if key in field.metadata]
        choices = field.metadata.get("choices")
        if choices is not None:
            limits.append("one of " + ", ".join(f"`{item}`" for item in (choices() if callable(choices) else choices)))
        kind = str(field.type).replace("|", "or")
        rows.append(f"| `{section}.{field.name}` | {kind} | `{default_of(field)}` | {', '.join(limits)} |")
    if not rows:
        return "None."
    return "\n".join(["| option | type | default | |", "| --- | --- | --- | --- |", *rows])


def own_settings(section: str, name: str) -> str:
    """What the part's yaml file sets beside its own options."""
    values = {key: value for key, value in content(section, name).items() if key != "defaults"}
    if not values:
        return ""
    return (
        f"Its file `configs/{section}/{name}.yaml` sets:\n\n```yaml\n{OmegaConf.to_yaml(OmegaConf.create(values))}```\n"
    )


def commands_page() -> str:
    """`--help`, and that of every command."""
    parts = [f"# Commands\n\n```\n{FIRST}```"]
    for name, module in COMMANDS.items():
        shown = "\n".join(help_of(module, words) for words in help_words(name))
        parts.append(f"## {name}\n\n```\n{shown}```")
    return "\n\n".join(parts)


def help_words(name: str) -> Iterable[list[str]]:
    """The words that show a command's help: `data` has commands of its own."""
    if name == "data":
        return [[action, "--help"] for action in importlib.import_module(COMMANDS[name]).ACTIONS]
    return [["--help"]]


def help_of(module: str, words: list[str]) -> str:
    """What a command prints for its help, 100 columns wide."""
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="100"),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(module).main(words)
    return out.getvalue()


def options_page() -> str:
    return f"""# Options

Groups and their choices (`group=choice`):

```
{groups_text()}```

The options of the default cell and their values (`section.option=value`); those of another are shown by
`python -m peftbench --help options method=lora ...`:

```
{options_text([])}
```
"""
