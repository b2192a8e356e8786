"""Method cards: what each method costs, assumes and guarantees; `docs/methods.md` is made of them.

    python -m interp_plugins.attr.evidence.cards > docs/methods.md

What it says of a method is given where the method is registered, but for what the randomisation check found: that
stands in `attr/evidence/randomised.py`.
"""

from __future__ import annotations

from interp_plugins.attr.evidence.randomised import (
    ANSWERS,
    CASCADE,
    DIGITS,
    LIMIT,
    PASSING_WORDS,
    TRANSFORMER,
    Cascade,
    verdict,
)
from interp_plugins.core.registry import MethodInfo, list_methods, method_info


def card(name: str) -> MethodInfo:
    """Whose cost, axioms and assumptions are a method's: its own registration, or for a variant the plain method's."""
    info = method_info(name)
    return info if info.cost or info.variant_of is None else card(info.variant_of)


def methods_page() -> str:
    """The text of `docs/methods.md`, made from the registry and the cards."""
    head = [
        "# Methods",
        "",
        "Made from the registry by `python -m interp_plugins.attr.evidence.cards > docs/methods.md`; do not edit.",
        "",
        "Cost is per sample: n is `n_steps` or `n_samples`, d the number of features or windows, c of channels. The",
        "axioms are those that hold for every model, and each is tested for each method that claims it.",
        "",
        *_check(),
    ]
    parts = [_table(title, site) for title, site in
             (("Over the input", "input"), ("Over a layer", "layer"), ("Of a neuron", "neuron"))]  # fmt: skip
    return "\n".join([*head, *(line for part in parts for line in part), *_answers()])


def _table(title: str, site: str) -> list[str]:
    rows = [_row(method_info(name)) for name in list_methods(site=site)]
    head = ["Name", "Also", "For", "Cost", "Axioms", "Assumes", "Randomised", "Source"]
    lines = [head, ["---"] * len(head), *rows]
    return [f"## {title}", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _row(info: MethodInfo) -> list[str]:
    known = card(info.name)
    return [
        f"`{info.name}`",
        ", ".join(f"`{a}`" for a in info.aliases) or "-",
        {"any": "any input", "image": "pictures", "transformer": "transformers"}[info.applies_to],
        known.cost or "-",
        ", ".join(known.axioms) or "-",
        known.assumes or "-",
        _randomised(info.name),
        info.reference or "-",
    ]


def _randomised(name: str) -> str:
    photographs, words, digits = CASCADE.get(name), TRANSFORMER.get(name), DIGITS.get(name)
    parts = [_cascade(photographs)] if photographs is not None else []
    parts += [f"words {_cascade(words)}"] if words is not None else []
    parts += [f"{digits[0]:.2f} ± {digits[1]:.2f}"] if digits is not None else []
    found = verdict(name)
    return "; ".join(parts or ["-"]) + (" **fails**" if found is not None and found.fails else "")


def _cascade(found: Cascade) -> str:
    upper = f"{found.upper_half:.2f}" + ("" if found.spread is None else f" ± {found.spread:.2f}")
    alike = f" ({sum(found.ssim[:3]) / 3:.2f})" if found.ssim else ""
    return f"{found.rank[0]:.2f}, {upper}, {found.rank[-1]:.2f}{alike}"


def _check() -> list[str]:
    """What the page says of the randomisation check."""
    spreads = sorted(found.spread for found in CASCADE.values() if found.spread is not None)
    return [
        "## The randomisation check",
        "",
        "*Randomised* is the check of Adebayo et al. 2018: Spearman's rank correlation between a method's absolute",
        "maps of a trained network and of the same network with weights drawn anew. Near zero, a map is about what was",
        "learned. Several numbers, with semicolons between them:",
        "",
        "1. Three for EfficientNet-Lite0 (ImageNet weights, three photographs of 128 x 128; maps over a layer at",
        "   `blocks.4`), drawn anew from the top: the classifier alone; the mean over the stages in which the upper",
        "   half is random; all layers. In brackets SSIM over the upper half.",
        "2. After *words*: the same three for MiniLM, a BERT of six layers trained on pairs of sentences, asked why",
        "   two sentences are alike: the last layer alone; the upper half; all. Over the words of eight sentences.",
        "3. Last, for all layers of a small network trained on digits: a CNN, or a vision transformer for the methods",
        "   that need one; for a neuron, that of the class.",
        "",
        f"A method above {LIMIT} in the second number *fails*, and says so once; methods that need attention are",
        "judged by the words, all others by the photographs. The limit is ours.",
        "",
        "*How stable.* After ± stands the standard deviation over three draws of the weights, and the number before",
        f"it is their mean. For the photographs half of them are below {spreads[len(spreads) // 2]:.2f}, the largest",
        f"is {spreads[-1]:.2f}; no mean lies within two standard errors of the limit. Without ±: one draw, of methods",
        "that take minutes. The last numbers, of small maps, vary more.",
        "",
        "*Transformers.* A new layer of a transformer adds little to what it is given, so what lower layers made of",
        "the words still arrives with the upper half random. Maps without a sign then stay much as they were: those",
        "of attention and, on this network, those of gradients, too",
        f"({', '.join(_beside())}).",
        f"What notices is {' and '.join(_beside(PASSING_WORDS))}.",
        "Attention rollout knows no class: its map is the same for all of them.",
        "",
        "*Not there.* `layer_activation` is what a layer computes, not what the network concludes: the check does",
        "not apply. A neuron's map changes only with the layers below it, so the column gives the digits alone, for",
        "the neuron of the class. `ablation_cam` asks for a pass per channel and was measured on the digits alone.",
        "LIME's Lasso often finds nothing in the small scores of a random network; a map",
        "without differences counts as 0. `extremal_perturbation` ran with 60 steps for the photographs and 150 for",
        "the digits instead of 400, and maps that have not come far from their common start are alike.",
        "NoiseTunnel stands for `explain`'s setting, squares of integrated gradients. With `nt_type='smoothgrad'` its",
        "second number is 0.27: what fails is squaring maps multiplied by the input.",
        "",
    ]


def _answers() -> list[str]:
    """What the page says of the same check on a language model."""
    rows = [f"| `{name}` | {_cascade(found).replace(', ', ' | ')} |" for name, found in sorted(ANSWERS.items())]
    words = [
        "## For a language model's answer",
        "",
        "Methods of `explain_text`, checked on SmolLM2 (30 blocks) over the words of six texts that it goes on with as",
        "it should: rank correlation of absolute maps with those of the trained model, by how much is drawn anew.",
        "After ± the standard deviation over three draws, without it one draw. Texts of four to nine words are short:",
        "one draw of maps that have nothing in common lies within 0.35 of zero.",
        "",
        "| Name | Last block alone | Upper half | Everything |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "Every method notices new weights. Relevance (AttnLRP) is above the limit with the upper half random: it still",
        "shows what lower blocks made of the words, as on MiniLM. Where it and ablation disagree, believe ablation.",
        "",
    ]
    return words


def _beside(names: tuple[str, ...] = ("saliency", "lrp", "deep_lift", "integrated_gradients")) -> list[str]:
    return [f"`{name}` {TRANSFORMER[name].upper_half:.2f}" for name in names]


if __name__ == "__main__":
    print(methods_page())
