"""Options that identities leave out because they came later and hold their default, put back where others name them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from peftbench.backbones.options import BackboneSpec
from peftbench.config.parts import NAMED, outlined
from peftbench.config.protocol import ProtocolSpec
from peftbench.foundation.errors import PeftbenchError
from peftbench.foundation.identity import canonical
from peftbench.foundation.spec import Spec, defaults_of
from peftbench.train.options import OptimSpec, TrainSpec

# sections that have one class of options
_ALONE: dict[str, type[Spec]] = {cls.section: cls for cls in (BackboneSpec, ProtocolSpec, OptimSpec, TrainSpec)}


def completed(settings: Iterable[str]) -> dict[str, str]:
    """Each setting (JSON: section -> option -> value) with the options that others of the same parts have beside its
    own, at their defaults. Options of a part that is not here stay out.
    """
    parsed: dict[str, dict[str, Any]] = {text: json.loads(text) for text in dict.fromkeys(settings)}
    named: dict[tuple[str, str], set[str]] = {}
    for setting in parsed.values():
        for section, values in setting.items():
            named.setdefault((section, _part(section, values)), set()).update(
                values if isinstance(values, dict) else ()
            )
    of_parts = cache(_defaults)

    def whole(section: str, values: Any) -> Any:
        key = section, _part(section, values)
        if not isinstance(values, dict) or values.keys() == named[key]:
            return values
        defaults = of_parts(*key)
        return {name: defaults[name] for name in named[key] & defaults.keys()} | values

    return {
        text: canonical({name: whole(name, of) for name, of in setting.items()}) for text, setting in parsed.items()
    }


def _part(section: str, values: Any) -> str:
    """The name of the part that a section describes, "" for one of `_ALONE`."""
    return str(values.get(NAMED[section][0])) if section in NAMED and isinstance(values, dict) else ""


def _defaults(section: str, part: str) -> dict[str, Any]:
    if section in _ALONE:
        return defaults_of(_ALONE[section])
    try:
        return defaults_of(outlined(section, part)) if section in NAMED else {}
    except PeftbenchError:
        # of a plug-in that is not named here
        return {}
