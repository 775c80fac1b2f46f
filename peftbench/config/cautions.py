"""What a user should hear before a run that is allowed and yet likely to disappoint."""

from __future__ import annotations

from peftbench.config.gate import RunConfig
from peftbench.config.protocol import TUNED_ON
from peftbench.data.sources.own_files import OwnFiles
from peftbench.foundation.terminal import number_of

EMBEDDED = "embedded"
# rates of the committed boards and of the published tables; outside them nothing is known
USUAL_RATES = (1e-4, 1e-1)
# ten images tell two settings apart (95 %) where they differ on four or five of them, see `foundation.shares`: below
# that many only differences that nobody has to measure are seen, and each image is more than ten points
FEW_TO_CHOOSE = 10


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
    return [*lines, *_few_that_choose(config)]


def _few_that_choose(config: RunConfig) -> list[str]:
    """A line where so few of one's own images validate that what is chosen by them is chosen by chance."""
    dataset, protocol = config.dataset, config.protocol
    chooses = TUNED_ON[protocol.train_split][1] if config.tune.active else protocol.val_split
    if chooses != "val" or not isinstance(dataset, OwnFiles):
        return []
    num_val, num_classes, more = dataset.validating()
    if num_val < FEW_TO_CHOOSE:
        few = f"{number_of(num_val, 'image')} validate{'s' if num_val == 1 else ''}"
        return [
            f"{dataset.label}: {few}, and what is best on so few is so by chance; {more}, or choose nothing by them"
        ]
    if num_val < num_classes:
        return [
            f"{dataset.label}: {num_val} images validate and there are {num_classes} classes, so that "
            f"{num_classes - num_val} or more of them take no part in what is chosen; {more}"
        ]
    return []
