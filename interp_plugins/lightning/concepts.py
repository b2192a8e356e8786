"""`concepts` and `concept_test` for a LightningModule and a loader or a LightningDataModule."""

from __future__ import annotations

from typing import Any

from torch import nn

from interp_plugins.concept.bank import ConceptBank
from interp_plugins.concept.discover import concepts as core_concepts
from interp_plugins.concept.significance import ConceptTest
from interp_plugins.concept.testing import concept_test as core_test
from interp_plugins.core.errors import InputError, concise
from interp_plugins.lightning.subject import find_subject


def concepts(module: nn.Module, data: Any, target: Any = None, n_concepts: int = 10, **options: Any) -> ConceptBank:
    """Find the concepts that a LightningModule goes by for a class, without labels of them; it stays as it was.

    Args:
        module: the LightningModule; its `forward` is explained.
        data: a loader, tensors, or a LightningDataModule, whose validation loader is read.
        target: the class, by index or by a name of `input_spec.vocab`; None: each item's predicted class.
        n_concepts: number of concepts.
        **options: those of `interp_plugins.concepts`: `layer`, `crops`, `items`, `most`, `seed`, `input_spec`, ...

    Returns:
        A `ConceptBank`.

    Raises:
        InputError: no item of the class, a DataModule without a validation loader.

    Example:
        concepts(model, val_loader, target=1, n_concepts=2, items="all").importance
    """
    with concise():
        return core_concepts(find_subject(module).module, loader_of(data), target, n_concepts, **options)


def concept_test(
    module: nn.Module, concept: Any, random: Any, data: Any, target: Any, layers: Any = None, **options: Any
) -> ConceptTest:
    """Test whether a class's score rises towards concepts that examples show (TCAV); the module stays as it was.

    Args:
        module: the LightningModule.
        concept: examples, or several by name, as for `interp_plugins.concept_test`.
        random: examples of anything else of the same kind.
        data: a loader, tensors, or a LightningDataModule, whose validation loader is read.
        target: the class.
        layers: where; None: the last layer with places.
        **options: those of `interp_plugins.concept_test`.

    Returns:
        A `ConceptTest`.

    Raises:
        InputError: too few examples, no item of the class.
    """
    with concise():
        return core_test(find_subject(module).module, concept, random, loader_of(data), target, layers, **options)


def loader_of(data: Any) -> Any:
    """The validation loader of a LightningDataModule; anything else as it is.

    Args:
        data: what may be one.

    Raises:
        InputError: it has several validation loaders, or none.
    """
    if not hasattr(data, "val_dataloader"):
        return data
    if hasattr(data, "prepare_data"):
        data.prepare_data()
    data.setup("validate")
    found = data.val_dataloader()
    many = (
        list(found.values())
        if isinstance(found, dict)
        else list(found)
        if isinstance(found, (list, tuple))
        else [found]
    )
    if len(many) != 1 or many[0] is None:
        raise InputError(f"{type(data).__name__} has no single validation loader: give the loader itself.")
    return many[0]
