"""`CAV`: a concept's vectors at a layer, in memory and as a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp_plugins.concept.concept import Concept, key_of
from interp_plugins.core.errors import InputError, decoding
from interp_plugins.core.files import replacing


class CAV:
    """Concept activation vectors of some concepts at one layer.

    Args:
        concepts: the concepts; a file keeps their ids and names.
        layer: name of the layer.
        stats: "weights", the vectors (C, D); "classes", the concept id of each; "accs", how well the concepts are told
            apart; and what else the classifier reports.
        save_path: folder of the files; None: in memory only.
        model_id: a name for the model, a folder in it.

    Attributes:
        key: a digest of what the vectors were made of: weights, examples, layer and classifier. None in files that
            Captum wrote.
    """

    def __init__(
        self,
        concepts: list[Concept],
        layer: str,
        stats: dict[str, Any] | None = None,
        save_path: str | None = "./cav/",
        model_id: str = "default_model_id",
    ) -> None:
        self.concepts, self.layer, self.stats = concepts, layer, stats
        self.save_path, self.model_id = save_path, model_id
        self.key: str | None = None

    def __repr__(self) -> str:
        accs = (self.stats or {}).get("accs")
        told = "" if accs is None else f", accuracy {float(accs):.2f}"
        return f"CAV({', '.join(c.name for c in self.concepts)} at {self.layer}{told})"

    @staticmethod
    def assemble_save_path(path: str, model_id: str, concepts: list[Concept], layer: str) -> str:
        """Where the vectors lie: path/model_id/0-1-layer.pkl for concepts 0 and 1.

        Args:
            path: the folder of all files.
            model_id: name of the model.
            concepts: of the vectors, in their order.
            layer: name of the layer.
        """
        return os.path.join(path, model_id, f"{key_of(concepts)}-{layer}.pkl")

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: `save_path` is None.
            FileError: it cannot be written, with what to do.
        """
        if self.save_path is None:
            raise InputError("This CAV is kept in memory (save_path=None): give a folder as save_path to save it.")
        kept = {
            "concept_ids": [c.id for c in self.concepts],
            "concept_names": [c.name for c in self.concepts],
            "layer": self.layer,
            "stats": self.stats,
            "key": self.key,
        }
        with replacing(CAV.assemble_save_path(self.save_path, self.model_id, self.concepts, self.layer)) as draft:
            torch.save(kept, draft)

    @staticmethod
    def create_cav_dir_if_missing(save_path: str, model_id: str) -> None:
        """Make the folder of a model's files; `save` does it as well.

        Args:
            save_path: the folder of all files.
            model_id: name of the model.
        """
        Path(save_path, model_id).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def load(cavs_path: str, model_id: str, concepts: Sequence[Concept], layer: str) -> CAV | None:
        """Read vectors that `save`, or Captum's, wrote; no code in the file is run.

        Args:
            cavs_path: the folder of all files.
            model_id: name of the model.
            concepts: of the vectors, in their order.
            layer: name of the layer.

        Returns:
            The vectors, with concepts that have no examples; None where there is no file.

        Raises:
            InputError: the file is of another kind, or damaged.
        """
        path = CAV.assemble_save_path(cavs_path, model_id, list(concepts), layer)
        if not os.path.exists(path):
            return None
        with decoding(InputError, f"{path} is not a file written by CAV.save, or it is damaged"):
            with torch.serialization.safe_globals(_numpy_globals()):
                kept = torch.load(path, weights_only=True)
            named = [Concept(i, n, None) for i, n in zip(kept["concept_ids"], kept["concept_names"], strict=True)]
            found = CAV(named, kept["layer"], kept["stats"], cavs_path, model_id)
            found.key = kept.get("key")
        return found


def _numpy_globals() -> list[Any]:
    """What arrays in Captum's files are made of."""
    core: Any = getattr(np, "_core", None) or getattr(np, "core")  # noqa: B009 - numpy 1 and 2
    whole = [type(np.dtype(kind)) for kind in ("int32", "int64", "uint32", "float32", "float64")]
    return [core.multiarray._reconstruct, np.ndarray, np.dtype, *whole]
