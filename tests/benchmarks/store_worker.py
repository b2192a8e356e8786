"""One process of a throughput run: python store_worker.py JSON, which names what `Work` does.

Prints, as JSON, when the work began, and after how many pictures which time it was: [pictures, seconds of the clock,
seconds of the processor]. A run's pictures count when their unit is committed, the loop's when their map is saved.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from interp_plugins.demo.module import Photographs
from interp_plugins.demo.network import lite0
from interp_plugins.store import table_parts

LAYER = "blocks.6"


@dataclass(frozen=True)
class Work:
    """What one process does.

    Attributes:
        face: "loop" (Captum's, written by hand), "explain_dataset" or "AttributionWriter".
        folder: the photographs.
        out: the run directory, or the loop's folder.
        method: as the registry names it.
        params: of the method, here.
        count: pictures of the whole run.
        unit: pictures of a unit.
        rank: of this process.
        world: how many there are.
        size: rows that Captum sends through at a time.
    """

    face: str
    folder: str
    out: str
    method: str
    params: dict[str, Any]
    count: int
    unit: int
    rank: int = 0
    world: int = 1
    size: int = 8

    @property
    def data(self) -> Any:
        """The photographs, again and again."""
        files = sorted(Path(self.folder).glob("*.png"))
        return Subset(ConcatDataset([Photographs(files)] * (1 + self.count // len(files))), range(self.count))


MARKS: list[tuple[int, float, float]] = []


def mark(pictures: int) -> None:
    """So many more are done."""
    done = pictures + (MARKS[-1][0] if MARKS else 0)
    MARKS.append((done, time.time(), time.process_time()))


def loop(work: Work) -> None:
    """What one writes by hand: read a picture, explain it, save its map."""
    explained, data = captum_call(work.method, work.size), work.data
    for k in range(work.rank, work.count, work.world):
        x, label = data[k]
        np.save(Path(work.out) / f"{k}.npy", explained(x[None], int(label)).detach().numpy())
        mark(1)


def captum_call(method: str, size: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Captum's method for one picture and its class."""
    import captum.attr as captum

    net = lite0()
    if method == "lrp":
        give_rules(net)
    steps = {"n_steps": 50, "internal_batch_size": size}
    windows = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "perturbations_per_eval": size}
    layer = net.get_submodule(LAYER)
    calls: dict[str, Any] = {
        "integrated_gradients": lambda x, t: captum.IntegratedGradients(net).attribute(x, target=t, **steps),
        "occlusion": lambda x, t: captum.Occlusion(net).attribute(x, target=t, **windows),
        "grad_cam": lambda x, t: captum.LayerGradCam(net, layer).attribute(x, target=t, relu_attributions=True),
        "lrp": lambda x, t: captum.LRP(net).attribute(x, target=t),
    }
    found: Callable[[torch.Tensor, int], torch.Tensor] = calls[method]
    return found


def give_rules(net: torch.nn.Module) -> None:
    """Rules for the modules for which Captum has none: without them it refuses the network."""
    from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule

    for module in net.modules():
        if not list(module.children()):
            kind = type(module).__name__
            module.rule = IdentityRule() if kind in ("Identity", "ReLU6") else EpsilonRule()


def notes_commits() -> None:
    """Mark every unit that is committed."""
    real = table_parts.commit

    def commit(path: Path, unit: int, manifest: Any, *rest: Any, **more: Any) -> bool:
        mine = real(path, unit, manifest, *rest, **more)
        mark(len(manifest.samples(unit)))
        return mine

    table_parts.commit = commit


def here(work: Work) -> None:
    """`explain_dataset`."""
    from interp_plugins.store import explain_dataset

    notes_commits()
    explain_dataset(
        lite0(),
        work.data,
        work.out,
        {work.method: work.params},
        target="label",
        layer=LAYER if work.method == "grad_cam" else None,
        unit_size=work.unit,
        rank=work.rank,
        world_size=work.world,
        progress=False,
    )


def writer(work: Work) -> None:
    """`AttributionWriter` in a Trainer, whose other processes are started as `torchrun` would."""
    import pytorch_lightning as pl

    from interp_plugins.demo.module import ImageNetModule
    from interp_plugins.lightning import AttributionWriter

    class Predicts(ImageNetModule):
        """Predicts for (picture, label)."""

        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0])

    notes_commits()
    made = AttributionWriter(
        work.out,
        methods={work.method: work.params},
        target="label",
        layer=f"net.{LAYER}" if work.method == "grad_cam" else None,
        unit_size=work.unit,
    )
    strategy: dict[str, Any] = {"strategy": "ddp", "devices": work.world} if work.world > 1 else {"devices": 1}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(accelerator="cpu", callbacks=[made], limit_predict_batches=1, **strategy, **quiet)
    trainer.predict(Predicts(), DataLoader(work.data, batch_size=1), return_predictions=False)


FACES = {"loop": loop, "explain_dataset": here, "AttributionWriter": writer}


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    work = Work(**json.loads(sys.argv[1]))
    if work.world > 1:
        os.environ |= {"LOCAL_RANK": str(work.rank), "NODE_RANK": "0"}
    begin = time.time(), time.process_time()
    FACES[work.face](work)
    print(json.dumps({"begin": begin, "end": [time.time(), time.process_time()], "marks": MARKS}))


if __name__ == "__main__":
    main()
