"""`learn.visualize` and `learn.dataset_examples`: the core, with what the Learner knows; nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from torch import nn

from interp_plugins import dataset_examples
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.optim import caricature as core_caricature


@pytest.fixture(scope="module")
def learn(dls: Any) -> Learner:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3))
    net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    return Learner(dls, net, loss_func=CrossEntropyLossFlat())


def test_pictures_come_with_the_validation_data(learn: Learner, unchanged: Any) -> None:
    with unchanged(learn):
        found = learn.visualize("0.2", channel=[1, 3], steps=12, progress=False)
    assert found.examples is not None and found.examples.seen == len(learn.dls.valid_ds)
    assert found.images.min() >= 0 and found.images.max() <= 1 and found.images.shape[1] == 3
    norm = next(f for f in learn.dls.valid.after_batch.fs if isinstance(f, Normalize))
    want = (found.images - norm.mean.cpu()) / norm.std.cpu()
    assert torch.allclose(found.inputs, want, atol=1e-5)
    vocab = [str(v) for v in learn.dls.vocab]
    assert {label for row in found.examples.label for label in row} <= set(vocab)
    named = learn.visualize(target=vocab[1], steps=4, max_items=0, progress=False)
    assert named.names == (vocab[1],) and named.examples is None and "without data" in repr(named)


def test_examples_are_rows_of_the_split_in_its_order(learn: Learner, unchanged: Any) -> None:
    with unchanged(learn):
        found = learn.dataset_examples("0.2", channel=[0, 4], k=3, ds_idx=0)
    order = learn.dls.train_ds
    xs = torch.cat([learn.dls.test_dl([order.items[i]]).one_batch()[0].cpu() for i in range(len(order))])
    plain = dataset_examples(learn.model, torch.Tensor(xs), "0.2", channel=[0, 4], k=3)
    assert torch.equal(plain.index, found.index) and torch.allclose(plain.value, found.value, atol=1e-5)
    assert found.item[0][0] == Path(order.items[int(found.index[0, 0])]).name
    assert learn.dataset_examples("2", channel=0, k=1).layer == "0.2" or "2" in dict(learn.model.named_modules())


def test_a_layer_and_an_item_of_the_learner(learn: Learner, unchanged: Any) -> None:
    path = learn.dls.valid_ds.items[1]
    how = {"steps": 4, "progress": False}
    with unchanged(learn):
        drawn, same = learn.caricature(path, "0.2", **how), learn.caricature(1, "0.2", **how)
        back = learn.invert(path, "0.2", smooth=0.1, **how)
        named = learn.accentuate(path, target=str(learn.dls.vocab[1]), **how)
        found = learn.atlas("0.2", ds_idx=0, grid=(2, 2), min_count=1, embed="pca", size=16, steps=4, progress=False)
    assert drawn.names == ("caricature at 0.2",) and torch.equal(drawn.images, same.images)
    x = learn.dls.test_dl([path]).one_batch()[0].cpu()
    spec = drawn.spec
    assert torch.equal(
        core_caricature(learn.model, torch.Tensor(x), "0.2", input_spec=spec, **how).images, drawn.images
    )
    assert back.names == ("inverted at 0.2",) and named.names == (str(learn.dls.vocab[1]),)
    assert found.seen == len(learn.dls.train_ds) and len(found) > 0 and all(found.label)
    with pytest.raises(InputError, match="made of one item; got 2"):
        learn.invert([path, path], "0.2", **how)


def test_rows_of_a_table_and_words(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd
    from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
    from fastai.tabular.all import Normalize as NormalizeColumns

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"age": rng.normal(40, 10, 60), "job": rng.choice(["a", "b"], 60), "y": rng.integers(0, 2, 60)}
    )
    dls = TabularDataLoaders.from_df(
        frame, tmp_path, procs=[Categorify, NormalizeColumns], cat_names=["job"], cont_names=["age"], y_names="y",
        y_block=None, valid_idx=list(range(40, 60)), bs=8, device=torch.device("cpu"), num_workers=0,
    )  # fmt: skip
    torch.manual_seed(0)
    learn = tabular_learner(dls, layers=[6], n_out=2, loss_func=CrossEntropyLossFlat())
    name = next(n for n, m in learn.model.named_modules() if isinstance(m, nn.Linear))
    found = learn.visualize(name, channel=1, steps=20, progress=False)  # a prototype row
    assert found.images.shape == (1, 1) and found.examples is not None and found.examples.words is not None
    assert set(found.examples.words[0][0]) == {"age", "job"}
    assert found.show().fig is not None


def test_ids_have_examples_and_no_picture(learn: Learner) -> None:
    from fastai.data.core import DataLoaders
    from torch.utils.data import DataLoader, TensorDataset

    ids = torch.randint(0, 9, (12, 5))
    loader = DataLoader(TensorDataset(ids, torch.arange(12) % 2), batch_size=4)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Flatten(), nn.Linear(15, 2))
    words = Learner(DataLoaders(loader, loader), net, loss_func=CrossEntropyLossFlat())
    assert words.dataset_examples("1", channel=2, k=2).index.shape == (1, 2)
    with pytest.raises(InputTypeError, match="dataset_examples"):
        words.visualize("1", channel=2, steps=2)


def test_F4_training_is_bit_identical_while_units_are_shown(make_learner: Any, make_dls: Any, tmp_path: Path) -> None:
    from interp_plugins.fastai import NeuronCallback

    def fit(*cbs: Any) -> tuple[dict[str, torch.Tensor], list[Any], torch.Tensor]:
        set_seed(3)  # a loader's own generator is drawn when it is made
        one = make_learner(make_dls(bs=7))
        with one.no_bar(), one.no_logging():
            one.fit(3, 1e-2, cbs=list(cbs))
        return {k: v.clone() for k, v in one.model.state_dict().items()}, list(one.recorder.values), torch.rand(3)

    layer = next(n for n, m in make_learner().model.named_modules() if isinstance(m, nn.Conv2d))
    watch = NeuronCallback(layer, channel=[0, 1], every_n_epochs=2, steps=4, path=tmp_path)
    before, losses, draws = fit()
    after, again, other = fit(watch)
    assert all(torch.equal(before[k], after[k]) for k in before) and losses == again and torch.equal(draws, other)
    assert [(s.fit, s.epoch) for s in watch.history] == [(1, 0), (1, 2)] and watch.last is not None
    assert watch.last.examples is not None and len(list(tmp_path.glob("neurons-epoch*.png"))) == 2
    assert watch.plot()[1].shape == (2, 2)
    with pytest.raises(InputError, match="looks at a layer's channels"):
        NeuronCallback()
    with pytest.raises(InputError, match="Did you mean 'diversity'"):
        NeuronCallback("0", diversty=1.0)  # said here, not after the first epoch
    with pytest.warns(InterpWarning, match="NeuronCallback failed, and training goes on"):
        fit(NeuronCallback("no such layer", steps=2, log="none"))
