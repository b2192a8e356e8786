"""Method cards: what each method costs, assumes and guarantees; `docs/methods.md` is made of them.

    python -m interp_plugins.attr.evidence.cards > docs/methods.md

What the randomisation check found stands in `attr/evidence/randomised.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from interp_plugins.attr.evidence.randomised import CASCADE, DIGITS, LIMIT, PASSING_WORDS, TRANSFORMER, Cascade, verdict
from interp_plugins.core.registry import MethodInfo, list_methods, method_info

C, L, D, S = "completeness", "linearity", "dummy", "symmetry"
I = "implementation invariance"  # noqa: E741 - the letters stand for the axioms in the table below


@dataclass(frozen=True)
class Card:
    """What is known of a method beside its registration.

    Attributes:
        cost: forward and backward passes per sample; n is `n_steps` or `n_samples`, d the number of features or
            windows, c of channels.
        axioms: those that hold for every model (completeness: up to the integration or sampling error); each is tested
            in `tests/axioms/test_cards.py`.
        assumes: what has to be true for the map to mean what it says.
    """

    cost: str
    axioms: tuple[str, ...] = ()
    assumes: str = ""


_LAYER = "the layer's last axes are places"
_BASE = "the baseline stands for nothing"
_RULES = "rules for the layers used"
_INDEPENDENT = "features that can be removed one by one"

CARDS: dict[str, Card] = {
    "ablation_cam": Card("c forward", (), _LAYER),
    "attention_relevance": Card("1 forward, 1 backward", (), "attention carries the information"),
    "attention_rollout": Card("1 forward, 1 backward", (), "attention carries the information, whatever the class"),
    "augmented": Card("the inner method's, for each copy", (), "flips, shifts and scales do not change the class"),
    "blur_ig": Card("n forward, n backward", (L, I), "detail is what counts"),
    "deconvolution": Card("1 forward, 1 backward", (), "ReLU network"),
    "deep_lift": Card("2 forward, 1 backward", (C, D), _BASE),
    "deep_lift_shap": Card("2n forward, n backward for n baselines", (C, D), "baselines from the data"),
    "eigen_cam": Card("1 forward", (), _LAYER + "; no class"),
    "eigen_grad_cam": Card("1 forward, 1 backward", (), _LAYER),
    "extremal_perturbation": Card("n forward, n backward", (), "a blurred picture stands for nothing"),
    "feature_ablation": Card("d + 1 forward", (L, D, S, I), _INDEPENDENT),
    "feature_permutation": Card("d + 1 forward", (L, D, I), "batch mates are typical"),
    "finer_cam": Card("1 forward, 1 backward", (), _LAYER + "; several classes"),
    "full_grad": Card("2 forward, 2 backward", (), "ReLU network; sign does not matter"),
    "grad_cam": Card("1 forward, 1 backward", (), _LAYER),
    "grad_cam_plus_plus": Card("1 forward, 1 backward", (), _LAYER + "; activations not negative"),
    "gradient_shap": Card("n forward, n backward", (C, L, D, S, I), "baselines from the data"),
    "guided_backprop": Card("1 forward, 1 backward", (), "ReLU network"),
    "guided_grad_cam": Card("2 forward, 2 backward", (), "ReLU network; " + _LAYER),
    "guided_ig": Card("n forward, n backward", (C, D, I), _BASE),
    "hi_res_cam": Card("1 forward, 1 backward", (), _LAYER + "; exact before linear layers"),
    "hsic": Card("n forward", (), _INDEPENDENT + "; an estimate, no exact zero"),
    "idgi": Card("2n forward, n backward", (C, D, I), _BASE),
    "input_x_gradient": Card("1 forward, 1 backward", (L, D, S, I), "nearly linear between zero and the input"),
    "integrated_gradients": Card("n forward, n backward", (C, L, D, S, I), _BASE),
    "internal_influence": Card("n forward, n backward", (L,), _BASE),
    "kernel_shap": Card("n forward", (C, L, D, S, I), _INDEPENDENT),
    "layer_activation": Card("1 forward", (), "no class"),
    "layer_cam": Card("1 forward, 1 backward", (), _LAYER),
    "layer_conductance": Card("3n forward, n backward", (C, L), _BASE),
    "le_grad": Card("l forward, l backward for l layers", (), "each layer's tokens can be read by the head"),
    "lime": Card("n forward", (I,), "nearly linear near the input"),
    "lrp": Card("1 forward, 1 backward", (), _RULES + "; complete but for biases and stabilizers"),
    "neuron_conductance": Card("n forward, 2n backward", (L,), _BASE),
    "neuron_gradient": Card("1 forward, 1 backward", (L, D, S, I), ""),
    "noise_tunnel": Card("n times the inner method's", (), "the noise keeps the class"),
    "occlusion": Card("d + 1 forward", (L, D, I), _INDEPENDENT),
    "owen": Card(
        "about 2d forward per sample drawn", (C, L, D, I), "features group into a tree; symmetric within a group"
    ),
    "rise": Card("n forward", (L, I), _INDEPENDENT),
    "saliency": Card("1 forward, 1 backward", (D, S, I), "small changes tell"),
    "score_cam": Card("c forward", (), _LAYER + "; channels mask the input"),
    "shapley_value_sampling": Card("n d forward", (C, L, D, I), _INDEPENDENT + "; symmetric in the limit"),
    "shapley_values": Card("2^d forward", (C, L, D, S, I), _INDEPENDENT),
    "sobol": Card("n (d + 2) forward", (D, I), _INDEPENDENT),
    "x_grad_cam": Card("1 forward, 1 backward", (), _LAYER),
    "xrai": Card("2n forward, 2n backward", (), "segments are what counts"),
}


def card(name: str) -> Card | None:
    """The card of a registered method; a layer or neuron variant has the card of the plain method."""
    info = method_info(name)
    for key in (info.name, info.name.removeprefix("layer_"), info.name.removeprefix("neuron_")):
        if key in CARDS:
            return CARDS[key]
    return {"layer_gradient_x_activation": CARDS["input_x_gradient"]}.get(info.name)


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
    return "\n".join([*head, *(line for part in parts for line in part)])


def _table(title: str, site: str) -> list[str]:
    rows = [_row(method_info(name)) for name in list_methods(site=site)]
    head = ["Name", "Also", "For", "Cost", "Axioms", "Assumes", "Randomised", "Source"]
    lines = [head, ["---"] * len(head), *rows]
    return [f"## {title}", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _row(info: MethodInfo) -> list[str]:
    known = card(info.name) or Card("")
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
        f"it is their mean. For the photographs half of them are below {spreads[len(spreads) // 2]:.2f}, the largest "
        f"is {spreads[-1]:.2f}; no mean lies within two standard errors of the limit. Without ±: one draw, of",
        "methods that take minutes. The last numbers,",
        "of small maps, vary more.",
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


def _beside(names: tuple[str, ...] = ("saliency", "lrp", "deep_lift", "integrated_gradients")) -> list[str]:
    return [f"`{name}` {TRANSFORMER[name].upper_half:.2f}" for name in names]


if __name__ == "__main__":
    print(methods_page())
