"""`TCAV`: how a score changes along the direction of a concept, under Captum's names.

A concept's vector v at a layer points from the activations of other examples to those of the concept's. S(x) = v . grad
of the score of x with respect to the layer is how much a small step towards the concept raises the score; `sign_count`
is the share of inputs with S > 0, `magnitude` the mean of S for v of length one.

Random against random gives such numbers as well, anything from 0 to 1: `TCAV.test` says whether one means something.

References:
    Kim et al. 2018, Interpretability beyond feature attribution: quantitative testing with concept activation vectors,
    arXiv:1711.11279, sections 3.2 to 3.4.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.attr.gradient.activation import LayerGradientXActivation
from interp_plugins.concept.activations import (
    ActivationReader,
    LayerSide,
    call_of,
    digest_of_batches,
    digest_of_weights,
    unit,
)
from interp_plugins.concept.cav import CAV
from interp_plugins.concept.classifier import Classifier, ClosedFormClassifier
from interp_plugins.concept.concept import Concept, ConceptInterpreter, batches_of, key_of
from interp_plugins.concept.significance import ConceptTest, compared_with_shuffled, null_interval
from interp_plugins.core.errors import InputError, InputTypeError, concise
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import Layer, layer_name, resolve_layer
from interp_plugins.core.random import check_seed
from interp_plugins.core.report import collecting, note
from interp_plugins.core.tensors import as_tuple, describe

Sets = Sequence[Sequence[Concept]]


class TCAV(ConceptInterpreter):
    """Testing with concept activation vectors: does the model use a concept for a class?

    Vectors are made anew when the weights, the examples, the layer or the classifier have changed; the model, its mode
    and the random generators are left as they were.

    Args:
        model: an `nn.Module`.
        layers: where the concepts are looked for: names, modules, `Layer`s, or a list of these.
        model_id: a name for the model, a folder in `save_path`.
        classifier: what makes vectors of activations; None: `ClosedFormClassifier()`, the difference of means.
        layer_attr_method: a layer method whose maps take the place of the gradient; its `layer` is set.
        attribute_to_layer_input: look at the layers' inputs instead of their outputs.
        save_path: folder in which vectors are kept; None: in memory only.
        pool: "mean" or "max" over a layer's places, "none": all numbers; None: all, but the mean where a layer has more
            than 50,000 numbers per example or the examples differ in size, which a warning says. A step along a pooled
            vector is one of all places.
        seed: of a classifier that draws (it gets it as a keyword argument), and of `test`.
        **classifier_kwargs: given to the classifier's `train_and_eval`.

    Raises:
        LayerError: no such layer, with the nearest names.

    Example:
        from interp_plugins.concept import TCAV, Concept

        bright, dark = Concept(0, "bright", [0.5 + x / 2, x.sqrt()]), Concept(1, "dark", [x / 2, x / 3])
        found = TCAV(model, "1", save_path=None).interpret(x, [[bright, dark]], target=3)
        found["0-1"]["1"]["sign_count"].sum()  # -> 1.0
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Any,
        model_id: str = "default_model_id",
        classifier: Classifier | None = None,
        layer_attr_method: Any = None,
        attribute_to_layer_input: bool = False,
        save_path: str | None = "./cav/",
        *,
        pool: str | None = None,
        seed: int = 0,
        **classifier_kwargs: Any,
    ) -> None:
        with concise():
            super().__init__(model)
            if not isinstance(model, nn.Module):
                raise InputTypeError(f"TCAV needs an nn.Module, since it looks inside of it; got {describe(model)}.")
            if not model_id:
                raise InputError("model_id is empty: give the model a name, or leave the default.")
            io = "input" if attribute_to_layer_input else "output"
            self._reader = ActivationReader(model, [_side(model, one, io) for one in _listed(layers)], pool)
            self.layers = [side.name for side in self._reader.sides]
            self.model_id, self.save_path, self.seed = model_id, save_path, check_seed(seed)
            self.classifier = ClosedFormClassifier() if classifier is None else classifier
            self.classifier_kwargs = classifier_kwargs
            self.layer_attr_method = layer_attr_method
            self.attribute_to_layer_input = attribute_to_layer_input
            self.concepts: set[Concept] = set()
            self.cavs: dict[str, dict[str, CAV]] = defaultdict(dict)
            self._kept: dict[tuple[str, Concept], tuple[str, Tensor]] = {}  # layer, concept: digest, activations

    def interpret(
        self,
        inputs: Any,
        experimental_sets: list[list[Concept]],
        target: Any = None,
        additional_forward_args: Any = None,
        processes: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, dict[str, Tensor]]]:
        """Scores of every concept in every set of concepts that are told from each other.

        Inside `core.report.collect()` the report holds "tcav_null": between which sign counts 95 % of vectors of
        examples with shuffled labels lie, per set and layer.

        Args:
            inputs: samples of the class: tensor, tuple of tensors or dict by name, batch first.
            experimental_sets: sets of concepts, [concept, something else] mostly; sets may differ in size.
            target: of the output, as for every method.
            additional_forward_args: further positional arguments of the model.
            processes: accepted for Captum's sake, and changes nothing: the closed form needs none.
            **kwargs: given to the layer method's `attribute`.

        Returns:
            {"0-1": {layer: {"sign_count": (C,), "magnitude": (C,)}}} by the ids of a set, the concepts in its order.

        Raises:
            InputError: two concepts with one id, a concept without examples.
        """
        with concise():
            sets = _sets(experimental_sets)
            self.compute_cavs(experimental_sets)
            grads = self._gradients(inputs, target, additional_forward_args, kwargs)
            scores: dict[str, dict[str, dict[str, Tensor]]] = {key_of(one): {} for one in sets}
            for concepts in sets:
                for layer, g in zip(self.layers, grads, strict=True):
                    stats = self.cavs[key_of(concepts)][layer].stats or {}
                    order = [list(stats["classes"]).index(c.id) for c in concepts]
                    along = g.double() @ unit(torch.as_tensor(stats["weights"])[order].double()).to(g.device).T
                    found = {"sign_count": (along > 0).double().mean(0).float(), "magnitude": along.mean(0).float()}
                    scores[key_of(concepts)][layer] = found
            if collecting():
                note(tcav_null=self._null(sets, grads))
            return scores

    def compute_cavs(
        self, experimental_sets: list[list[Concept]], force_train: bool = False, processes: int | None = None
    ) -> dict[str, dict[str, CAV]]:
        """Vectors of every set of concepts at every layer; those at hand are used if they are of these very data.

        Args:
            experimental_sets: sets of concepts.
            force_train: make all anew.
            processes: accepted for Captum's sake, and changes nothing.

        Returns:
            Vectors by the ids of a set and the layer's name, those of earlier calls included.

        Raises:
            InputError: two concepts with one id, a concept without examples.
        """
        with concise():
            sets = _sets(experimental_sets)
            self._take(sets)
            for concepts in sets:
                missing = self.layers if force_train else self._missing(concepts)
                self._fill(concepts, missing, anew=force_train)
                for layer in missing:
                    self.cavs[key_of(concepts)][layer] = self._made(concepts, layer)
            self._kept.clear()
            return self.cavs

    def load_cavs(self, concepts: list[Concept]) -> tuple[list[str], dict[Concept, list[str]]]:
        """Take the vectors at hand, in memory and in `save_path`, that were made of these weights and examples.

        Args:
            concepts: a set of concepts.

        Returns:
            The layers without such vectors, and for each concept the layers at which its activations are missing.
        """
        with concise():
            self._take([concepts])
            layers = self._missing(concepts)
            absent = {c: [name for name in layers if not self._has(name, c)] for c in concepts}
            return layers, {c: names for c, names in absent.items() if names}

    def generate_all_activations(self) -> None:
        """Read the activations of all concepts seen so far at all layers; `compute_cavs` uses them."""
        for concept in sorted(self.concepts, key=lambda c: c.id):
            self.generate_activation(self.layers, concept)

    def generate_activations(self, concept_layers: Mapping[Concept, list[str]]) -> None:
        """Read the activations of some concepts at some layers.

        Args:
            concept_layers: the layers of each concept.
        """
        for concept, layers in concept_layers.items():
            self.generate_activation(layers, concept)

    def generate_activation(self, layers: str | list[str], concept: Concept) -> None:
        """Read a concept's activations at some layers; they are kept in memory until vectors are made of them.

        Args:
            layers: names among this object's layers.
            concept: the concept.
        """
        with concise():
            self._fill([concept], [layers] if isinstance(layers, str) else list(layers), anew=True)

    def test(
        self,
        inputs: Any,
        concept: Concept | Sequence[Concept],
        random: Concept,
        target: Any = None,
        layers: str | Sequence[str] | None = None,
        runs: int = 30,
        *,
        permutations: int = 1000,
        additional_forward_args: Any = None,
    ) -> ConceptTest:
        """Which concepts matter to a score, with p-values: scores against those of examples with shuffled labels.

        If the concept's examples are as the random ones, labels mean nothing, and the score of the true labels is one
        among those of shuffled labels. The p-value is the share of shuffled scores that are as far from 1/2; of equal
        ones (a score of 1 is common, in particular at the last layer) the larger mean of |v . grad| counts.

        Args:
            inputs: samples of the class, as for `interpret`.
            concept: one or several concepts, each against the random examples.
            random: examples of anything else, as many as there are or more.
            target: as for `interpret`.
            layers: some of this object's layers; None: all.
            runs: random halvings of the examples, for the stability of the vector.
            permutations: shuffled labels; the smallest p-value is 1 / (permutations + 1).
            additional_forward_args: as for `interpret`.

        Returns:
            A row per concept and layer: score, p, p after Holm over all rows, the interval of shuffled scores,
            accuracy and stability.

        Raises:
            InputError: fewer than two examples, no permutations, unknown layers.
        """
        with concise():
            many = [concept] if isinstance(concept, Concept) else list(concept)
            names = self.layers if layers is None else [layers] if isinstance(layers, str) else list(layers)
            sides = [self._side_named(name) for name in names]
            self._take([[one, random] for one in many])
            *ours, other = self._reader.rows([_Batches(c) for c in (*many, random)], sides)
            grads = self._gradients(inputs, target, additional_forward_args, {}, sides)
            rows = [
                (c.name, side.name, z[i], other[i], grads[i])
                for c, z in zip(many, ours)
                for i, side in enumerate(sides)
            ]
            return compared_with_shuffled(rows, self._direction(), runs, permutations, self.seed)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _direction(self) -> str:
        return self.classifier.direction if isinstance(self.classifier, ClosedFormClassifier) else "mean"

    def _take(self, sets: Sets) -> None:
        """Remember the concepts, and refuse two of one id."""
        for concept in (c for one in sets for c in one):
            same = [known for known in self.concepts if known.id == concept.id and known != concept]
            if same:
                raise InputError(
                    f"There are two concepts with id {concept.id}: {same[0].name!r} and {concept.name!r}. Give each "
                    "its own id."
                )
            self.concepts.discard(concept)  # the newer examples count
            self.concepts.add(concept)

    def _has(self, layer: str, concept: Concept) -> bool:
        found = self._kept.get((layer, concept))
        return found is not None and found[0] == self._digest([concept])

    def _digest(self, concepts: Sequence[Concept]) -> str:
        """Of the weights and of the concepts' examples."""
        examples = "/".join(f"{c.identifier}:{digest_of_batches(batches_of(c))}" for c in concepts)
        return hashlib.blake2b(f"{digest_of_weights(self.model)}/{examples}".encode(), digest_size=16).hexdigest()

    def _key(self, concepts: Sequence[Concept], layer: str, digest: str) -> str:
        """Of all that a vector is made of."""
        plain = {k: v for k, v in sorted(vars(self.classifier).items()) if isinstance(v, (str, int, float, bool))}
        how = (type(self.classifier).__qualname__, plain, sorted(self.classifier_kwargs.items()), self.seed)
        side = self._side_named(layer).layer
        where = (layer, side.io, side.call, self._reader.pool)
        return hashlib.blake2b(repr((digest, how, where)).encode(), digest_size=16).hexdigest()

    def _missing(self, concepts: Sequence[Concept]) -> list[str]:
        """Layers at which no vectors of these very data are at hand; those at hand are taken."""
        digest, missing = self._digest(concepts), []
        for layer in self.layers:
            key = self._key(concepts, layer, digest)
            known = self.cavs[key_of(concepts)].get(layer)
            if (known is None or known.key != key) and self.save_path is not None:
                known = CAV.load(self.save_path, self.model_id, concepts, layer)
            if known is None or known.key != key:
                missing.append(layer)
            else:
                self.cavs[key_of(concepts)][layer] = known
        return missing

    def _fill(self, concepts: Sequence[Concept], layers: Sequence[str], anew: bool) -> None:
        """Read what activations are missing, all of a set together so that they are pooled alike."""
        sides = [self._side_named(name) for name in layers]
        if not sides or (not anew and all(self._has(name, c) for name in layers for c in concepts)):
            return
        found = self._reader.rows([_Batches(c) for c in concepts], sides)
        for concept, tensors in zip(concepts, found, strict=True):
            digest = self._digest([concept])
            self._kept |= {(side.name, concept): (digest, t) for side, t in zip(sides, tensors, strict=True)}

    def _made(self, concepts: Sequence[Concept], layer: str) -> CAV:
        """Fit the classifier, and keep its vectors."""
        parts = [self._kept[layer, c][1] for c in concepts]
        if len({part.shape[1] for part in parts}) > 1:
            raise InputError(f"The concepts' activations at {layer!r} differ in size; give pool='mean'.")
        labels = torch.cat([torch.full((len(part),), c.id) for c, part in zip(concepts, parts, strict=True)])
        loader: DataLoader[Any] = DataLoader(
            TensorDataset(torch.cat(parts), labels), batch_size=64, generator=torch.Generator()
        )
        options = {"seed": self.seed, **self.classifier_kwargs}
        stats = self.classifier.train_and_eval(loader, **options) or {}
        weights, classes = self.classifier.weights(), list(self.classifier.classes())
        if sorted(int(c) for c in classes) != sorted(c.id for c in concepts):
            raise InputError(f"The classifier tells {classes} apart, and the concepts are {[c.id for c in concepts]}.")
        known = {"weights": weights.detach().cpu(), "classes": [int(c) for c in classes], **stats}
        cav = CAV(list(concepts), layer, known, self.save_path, self.model_id)
        cav.key = self._key(concepts, layer, self._digest(concepts))
        if self.save_path is not None:
            cav.save()
        return cav

    def _side_named(self, name: str) -> LayerSide:
        found = next((side for side in self._reader.sides if side.name == name), None)
        if found is None:
            raise InputError(f"{name!r} is none of the layers {self.layers}; name it when TCAV is made.")
        return found

    def _gradients(
        self, inputs: Any, target: Any, more: Any, kwargs: dict[str, Any], sides: Sequence[LayerSide] | None = None
    ) -> list[Tensor]:
        """The gradient of the score at each layer (N, D), as its activations are laid out."""
        sides = list(self._reader.sides if sides is None else sides)
        if "attribute_to_layer_input" in kwargs:
            raise InputError("Say attribute_to_layer_input when TCAV is made, so that vectors and gradients agree.")
        with frozen(self.model):
            xs, forward = call_of(self.model, inputs, more)
            named = isinstance(inputs, Mapping)
            maps = [self._maps(side, named, forward.func, forward.kwargs, xs, target, more, kwargs) for side in sides]
            flat = self._reader.flat
            return [flat(side, as_tuple(m), forward, xs, torch.sum) for side, m in zip(sides, maps, strict=True)]

    def _maps(
        self, side: LayerSide, named: bool, func: Any, fixed: Any, xs: Any, target: Any, more: Any, kwargs: Any
    ) -> Any:

        method = self.layer_attr_method
        if method is None:
            called = Call(func, fixed) if named and fixed else func
            method = LayerGradientXActivation(called, side.layer, multiply_by_inputs=False)
            side_given: dict[str, Any] = {}
        else:
            method.layer = side.layer.module
            side_given = {"attribute_to_layer_input": self.attribute_to_layer_input}
        given = xs if len(xs) > 1 else xs[0]
        return method.attribute(given, target=target, additional_forward_args=more, **side_given, **kwargs)

    def _null(self, sets: Sets, grads: Sequence[Tensor]) -> dict[str, dict[str, tuple[float, float]]]:
        """Between which sign counts 95 % of shuffled labels lie, for the first concept of each set."""
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for concepts in sets:
            rows = self._reader.rows([_Batches(c) for c in concepts])
            found[key_of(concepts)] = {
                layer: null_interval(rows[0][i], torch.cat([r[i] for r in rows[1:]]), grads[i], self.seed)
                for i, layer in enumerate(self.layers)
            }
        return found


class _Batches:
    """A concept's batches, as often as they are asked for."""

    def __init__(self, concept: Concept):
        self.concept = concept

    def __iter__(self) -> Any:
        return batches_of(self.concept)


def _listed(layers: Any) -> list[Any]:
    many = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    if not many:
        raise InputError("layers is empty: name at least one layer.")
    return many


def _side(model: nn.Module, layer: Any, io: str) -> LayerSide:
    given = layer if isinstance(layer, Layer) else Layer(layer, io)
    found = resolve_layer(model, given)
    assert isinstance(found.module, nn.Module)
    return LayerSide(found, layer if isinstance(layer, str) else layer_name(model, found.module))


def _sets(experimental_sets: Any) -> list[list[Concept]]:
    if not isinstance(experimental_sets, (list, tuple)) or not experimental_sets:
        raise InputTypeError(f"experimental_sets is a list of lists of concepts, got {describe(experimental_sets)}.")
    found = [list(one) if isinstance(one, (list, tuple)) else [one] for one in experimental_sets]
    for one in found:
        if len(one) < 2 or not all(isinstance(c, Concept) for c in one):
            raise InputError(
                "Every set of experimental_sets holds at least two concepts, which are told from each other "
                f"([striped, random]); got {one}."
            )
    return found
