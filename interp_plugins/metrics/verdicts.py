"""From scores to an answer: which methods pass, in which order, which cannot be told apart, and which is cheapest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp_plugins.attr.evidence.randomised import LIMIT
from interp_plugins.metrics.comparison import Check, Comparison
from interp_plugins.metrics.controls import CONTROLS
from interp_plugins.metrics.evaluation import Evaluation
from interp_plugins.metrics.score import Score
from interp_plugins.metrics.scores import Scores
from interp_plugins.metrics.statistics import PairedDifference, holm, paired

FAITHFUL, RANDOMISED, NEEDED, PLACED = "srg", "parameter_randomisation", "weights_gain", "relevance_mass"
LOST = 0.5  # share of its faithfulness that a map must lose with shuffled weights where it correlates with its own
COMPLETE = 0.1  # median relative error of completeness up to which the promise counts as kept


def judged(
    made: Evaluation,
    model: Sequence[Check],
    left_out: Mapping[str, str],
    untested: Sequence[str],
    prices: Sequence[float],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """The comparison of methods that were evaluated.

    Args:
        made: methods and controls, judged by `FAITHFUL`, and by `RANDOMISED` and `PLACED` where that could be.
        model: checks of the model; where one failed, no method passes.
        left_out: methods that could not be run, and why.
        untested: what was not asked.
        prices: passes a sample of each method, in their order.
        level: of the intervals.
        seed: of bootstraps and tests.
    """
    scores = made.scores()
    judge = _Judge(scores, made.completeness, level, seed)
    checks = {method: judge.checks(method) for method in judge.methods}
    passed = [m for m, many in checks.items() if all(c.passed is not False for c in many)]
    if any(check.passed is False for check in model):
        passed = []
    order = sorted(passed, key=lambda m: -scores[m, FAITHFUL].mean)
    gaps = {m: judge.gap(order[0], m) for m in order[1:]}
    ties = [m for m in order if m not in gaps or not gaps[m].above]
    placed = PLACED if (ties and (ties[0], PLACED) in scores) else None
    passes = dict(zip(judge.methods, prices, strict=True))
    best = min(judge.placed(ties) if placed else ties, key=lambda m: (passes[m], order.index(m)), default=None)
    return Comparison(scores, checks, model, order, ties, best, passes, gaps, left_out, untested, FAITHFUL, placed)


@dataclass(frozen=True)
class _Judge:
    scores: Scores
    completeness: Mapping[str, Mapping[object, float]]
    level: float
    seed: int

    @property
    def methods(self) -> list[str]:
        return [m for m in self.scores.methods if m not in CONTROLS]

    def difference(self, a: Score, b: Score) -> PairedDifference:
        return paired((a - b).values, level=self.level, seed=self.seed)

    def gap(self, first: str, other: str) -> PairedDifference:
        """How much more faithful the first is."""
        return self.difference(self.scores[first, FAITHFUL], self.scores[other, FAITHFUL])

    def placed(self, ties: Sequence[str]) -> list[str]:
        """Those of the ties that lie on the thing as well as the one that lies there best."""
        means = {m: self.scores[m, PLACED].mean for m in ties}
        known = {m: v for m, v in means.items() if not math.isnan(v)}
        if not known:
            return list(ties)
        first = max(known, key=lambda m: known[m])
        return [m for m in known if not self.difference(self.scores[first, PLACED], self.scores[m, PLACED]).above]

    def checks(self, method: str) -> list[Check]:
        """What a method must pass, each as far as it was asked."""
        found = [self._above_random(method), self._above_blind(method)]
        if (method, RANDOMISED) in self.scores:
            found.append(self._notices_weights(method))
        if self.completeness.get(method):
            found.append(self._complete(method))
        return found

    def _beside(self, method: str, control: str) -> tuple[PairedDifference, float]:
        """The difference to a control, and its p-value, adjusted for all methods."""
        gaps = {m: self.gap(m, control) for m in self.methods}
        adjusted = dict(zip(gaps, holm([gap.p for gap in gaps.values()])))
        return gaps[method], adjusted[method]

    def _decided(self, gap: PairedDifference) -> str:
        """A difference and its interval, which decides; the p-value only stands beside it."""
        lies = "lies above 0" if gap.above else "does not lie above 0"
        return f"{gap.mean:.3g} [{gap.low:.3g}, {gap.high:.3g}], and this {self.level:.0%} interval decides: it {lies}"

    def _above_random(self, method: str) -> Check:
        gap, p = self._beside(method, "control.random")
        score = self.scores[method, FAITHFUL]
        low, high = score.ci(self.level)
        return Check(
            "above random maps",
            gap.above,
            f"The symmetric relevance gain of {method} is {score.mean:.3g} [{low:.3g}, {high:.3g}], n = {gap.n}; less "
            f"that of random maps it is {self._decided(gap)} (higher on {gap.won:.0%} of the samples; beside the "
            f"interval a sign-flip test of no difference says p = {p:.2g}, Holm over {len(self.methods)} methods).",
        )

    def _above_blind(self, method: str) -> Check:
        """Beside the best of the maps that ignore the model."""
        blind = [c for c in CONTROLS if c != "control.random" and (c, FAITHFUL) in self.scores]
        found = {c: self._beside(method, c) for c in blind}
        hardest = min(found, key=lambda c: found[c][0].low)
        gap, p = found[hardest]
        return Check(
            "above maps that ignore the model",
            gap.above,
            f"Less that of {hardest} ({CONTROLS[hardest]}) its gain is {self._decided(gap)} "
            f"(higher on {gap.won:.0%}; the test says p = {p:.2g}).",
        )

    def _notices_weights(self, method: str) -> Check:
        """By rank correlation; where that is high, by what the map of the shuffled net is worth to this one.

        Two maps that are zero in the same places correlate: a dark background is no failure.
        """
        name, score = "notices other weights", self.scores[method, RANDOMISED]
        low, high = score.ci(self.level)
        if math.isnan(score.mean):
            why = next(iter(score.undefined), "no sample has a value")
            return Check(name, None, f"Whether {method} notices other weights could not be said: {why}.")
        says = (
            f"While the upper half of this net has shuffled weights, maps of {method} keep a rank correlation of "
            f"{score.mean:.2f} [{low:.2f}, {high:.2f}] with their own"
        )
        if score.mean <= LIMIT:
            return Check(name, True, f"{says} (at most {LIMIT:g} is asked for).")
        gain, own = self.scores[method, NEEDED], self.scores[method, FAITHFUL].mean
        gap = paired(gain.values, level=self.level, seed=self.seed)
        passed = gap.above and own > 0 and gap.mean >= LOST * own
        lost = f"{gap.mean:.3g} [{gap.low:.3g}, {gap.high:.3g}] of its gain of {own:.3g} is lost with such a map"
        verb = "but" if passed else "and"
        told = "so the weights decide where it matters" if passed else "so it shows the input rather than the net"
        return Check(
            name,
            passed,
            f"{says}, more than {LIMIT:g}, {verb} {lost} ({LOST:.0%}, and an interval above 0, are asked for), {told}.",
        )

    def _complete(self, method: str) -> Check:
        errors = sorted(self.completeness[method].values())
        median = errors[len(errors) // 2]
        passed = median <= COMPLETE
        return Check(
            "adds up",
            passed,
            f"It promises values that add up to the change of the score, and their sum is off by {median:.2g} of it in "
            f"the median of {len(errors)} samples (at most {COMPLETE:g} is asked for).",
        )
