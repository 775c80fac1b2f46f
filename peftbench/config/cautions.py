"""What a user should hear before a run that is allowed and yet likely to disappoint."""

from __future__ import annotations

from peftbench.config.gate import RunConfig
from peftbench.data.sources.own_files import OwnFiles

EMBEDDED = "embedded"
# rates of the committed boards and of the published tables; outside them nothing is known
USUAL_RATES = (1e-4, 1e-1)


def cautions(config: RunConfig) -> list[str]:
    """One line each: what is unusual, and what to do about it."""
    lines = []
    if isinstance(config.dataset, OwnFiles) and config.backbone.source == EMBEDDED:
        lines.append(
            f"backbone={config.backbone.title} is a small one that ships with the package (about a million parameters, "
            "trained at 32 px): it shows that all works, and recognises little in photos. For real use take "
            "backbone=vit_small_dinov2 (22 M, fetched once) or backbone=vit_b16_augreg_in21k (86 M, better on a GPU)"
        )
    low, high = USUAL_RATES
    chosen = "optim.lr" in config.hparams.filled  # by a preset, which says where the rate is from
    if config.optim.name == "adamw" and not chosen and not low <= config.optim.lr <= high:
        lines.append(
            f"optim.lr={config.optim.lr:g} is outside the rates that boards and papers used with AdamW ({low:g} to "
            f"{high:g}); tune=random chooses one on validation images"
        )
    return lines
