"""A data set explained by two processes, killed in the middle, and resumed by one.

Start it with plain Python; it starts its own workers, in the place of torchrun or SLURM (see docs/store.md):

    python examples/dataset_two_processes.py

The network is an EfficientNet-Lite0 with ImageNet weights, the pictures are photographs that come with scikit-image, in
several crops; nothing is downloaded.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as T

from interp_plugins import InputSpec
from interp_plugins.demo.network import MEAN, SIZE, STD, imagenet_classes, lite0
from interp_plugins.demo.photographs import PHOTOGRAPHS, save_photographs
from interp_plugins.store import ExplanationStore, explain_dataset

RUN = Path("dataset_run")
CROPS = int(os.environ.get("CROPS", "4"))  # of each photograph
METHODS = {"integrated_gradients": {"n_steps": int(os.environ.get("N_STEPS", "20"))}, "grad_cam": {}}


class Crops(Dataset[tuple[Tensor, int]]):
    """Several crops of each photograph, with the photograph's class."""

    def __init__(self, folder: Path):
        self.files = save_photographs(folder)
        self.classes = imagenet_classes()
        self.prepare = T.Compose([T.CenterCrop(SIZE), T.ToTensor(), T.Normalize(MEAN, STD)])
        # Names end up in the table; torchvision's ImageFolder has such a list as well.
        self.samples = [(f"{file.stem}/crop{i}", PHOTOGRAPHS[file.stem]) for file in self.files for i in range(CROPS)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = Image.open(self.files[i // CROPS]).convert("RGB")
        larger = SIZE + 24 * (i % CROPS)  # the crop shows less and less of the picture
        return self.prepare(T.Resize(larger)(picture)), self.classes.index(self.samples[i][1])


def work(folder: Path, rank: int, world_size: int) -> None:
    """What every process does; under torchrun, rank and world_size need not be given."""
    torch.set_num_threads(1)
    explain_dataset(
        lite0(),
        Crops(folder / "photographs"),
        folder / RUN,
        METHODS,
        target="label",
        input_spec=InputSpec(kind="image", mean=MEAN, std=STD, vocab=tuple(imagenet_classes())),
        unit_size=2,
        rank=rank,
        world_size=world_size,
        progress=False,
    )


def start(folder: Path, world_size: int) -> list[multiprocessing.Process]:
    workers = [multiprocessing.Process(target=work, args=(folder, rank, world_size)) for rank in range(world_size)]
    for worker in workers:
        worker.start()
    return workers


def main(folder: Path) -> None:
    Crops(folder / "photographs")  # write the pictures once, before two processes do
    print("Two processes begin ...")
    workers = start(folder, 2)
    while not list((folder / RUN).glob("parts/*.parquet")):  # the first unit is done
        if not all(w.is_alive() for w in workers):
            raise SystemExit("a worker stopped by itself")
        time.sleep(0.05)
    for worker in workers:
        worker.kill()
        worker.join()
    store = ExplanationStore(folder / RUN)
    print(f"... and are killed: {store}")

    print("One process goes on ...")
    (worker,) = start(folder, 1)
    worker.join()
    if worker.exitcode != 0:
        raise SystemExit("the run failed")
    store.refresh()
    print(f"... and finishes: {store}\n")

    print(store.summary(by="label").T.to_string(float_format="{:.3f}".format), "\n")
    wrong = store.where(correct=False)
    print(f"Not recognised: {', '.join(wrong.table()['name'].to_pylist()) or 'none'}")
    shown = [i for i, name in enumerate(store.table()["name"].to_pylist()) if name.endswith("crop0")]
    figure, _ = store.load(shown).plot()
    figure.savefig(folder / "dataset.png", dpi=90)
    print(f"{folder / 'dataset.png'}: the first crop of every photograph")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dataset_out"))
