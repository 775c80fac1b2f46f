"""What the race and the one test say, in numbers and in plain words."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.advise.race import Race, Trial
from peftbench.foundation.shares import margins, wilson
from peftbench.records.record import RunRecord


@dataclass(frozen=True)
class Verdict:
    """The winner's reported record, and what else is known of it. `runner_up` is None where one method was left."""

    winner: Trial
    runner_up: Trial | None
    record: RunRecord
    race: Race

    @property
    def interval(self) -> tuple[float, float]:
        test = self._test
        return wilson(int(test["correct"]), int(test["n"]))

    @property
    def _test(self) -> dict[str, float]:
        test = self.record.metrics["test"]
        assert test is not None
        return test

    def lines(self) -> list[str]:
        """Plain words, for the terminal and the page."""
        return [self.choice(), self.accuracy(), self.cost(), self.certainty(), self.more()]

    def choice(self) -> str:
        options = self.record.identity["method"]
        setting = ", ".join(f"{key}={value}" for key, value in options.items() if key not in ("name", "version"))
        rate, epochs = self.record.identity["optim"]["lr"], self.record.identity["train"]["epochs"]
        shown = f" ({setting})" if setting else ""
        return f"Take {self.winner.entry.method}{shown}, learning rate {rate:g}, {epochs} epochs."

    def accuracy(self) -> str:
        low, high = self.interval
        test = self._test
        return (
            f"It classifies {test['accuracy']:.1%} of {int(test['n']):,} test images rightly, which it saw once "
            f"(95 % interval: {low:.1%} to {high:.1%}); mean over classes {test['mean_class_accuracy']:.1%}."
        )

    def cost(self) -> str:
        params, cost = self.record.params, self.record.cost
        memory = (cost["memory"] or {}).get("total_bytes")
        parts = [f"{params['method']:,} + {params['head']:,} trained parameters (method + classifier)"]
        if memory:
            parts.append(f"{memory / 1e6:,.0f} MB of training memory at batch {cost['memory']['batch_size']}")
        parts.append(f"{cost['train_seconds']:,.0f} s of training on {cost['device']}")
        return f"Cost: {', '.join(parts)}."

    def certainty(self) -> str:
        """How sure the choice is against the runner-up, on the images that chose."""
        if self.runner_up is None:
            return "Nothing is known of a runner-up: no other method finished the race."
        first, second = self.winner, self.runner_up
        same = first.rung == second.rung
        n = int(first.record.metrics["val"]["n"])
        difference = 100 * (first.accuracy - second.accuracy)
        low, high = (100 * bound for bound in margins(round(first.accuracy * n), round(second.accuracy * n), n))
        margin = f"{difference:.1f} points, 95 % interval {low:.1f} to {high:.1f}"
        against = (
            f"Runner-up: {second.entry.method} with {second.accuracy:.1%} against {first.accuracy:.1%} of {n} "
            f"validation images{'' if same else f', after {second.epochs} epochs where the winner had {first.epochs}'}"
        )
        if low > 0:
            return f"{against}: a clear difference ({margin})."
        return f"{against}: so few images cannot tell the two apart ({margin}); {_cheaper(first, second)}"

    def more(self) -> str:
        """What a larger budget might bring, from what longer rungs have brought."""
        own = self.race.of(self.winner.entry)
        cut = " The budget ended the race before its last rung." if self.race.cut else ""
        if len(own) < 2:
            return f"What a larger budget brings this race cannot say: its winner was trained for one length only.{cut}"
        gain = 100 * (own[-1].accuracy - own[-2].accuracy)
        longer = f"{own[-1].epochs / own[-2].epochs:.0f} times the epochs brought {gain:+.1f} points"
        if gain < 1:
            return f"{longer}: a larger budget will hardly help; more images or a stronger backbone may.{cut}"
        return f"{longer}: a larger budget may bring more.{cut}"


def _cheaper(first: Trial, second: Trial) -> str:
    """Which of the two trains fewer parameters, those of the classifier among them."""
    ours, theirs = (int(trial.record.params["method"] + trial.record.params["head"]) for trial in (first, second))
    if ours == theirs:
        return "both train equally many parameters."
    if ours < theirs:
        return f"{first.entry.method} also trains fewer parameters."
    return f"{second.entry.method} trains fewer parameters and may be as good."
