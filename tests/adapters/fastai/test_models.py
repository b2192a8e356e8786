"""Nets as fastai users have them: in-place, frozen, wrapped, compiled, exported, with any loss."""

import contextlib
import copy
import inspect

import pytest
import timm
import torch
from fastai.callback.channelslast import ChannelsLast  # noqa: F401 - Learner.to_channelslast
from fastai.callback.hook import hook_output
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import BaseLoss, CrossEntropyLossFlat, FocalLossFlat
from fastai.vision.augment import Resize
from fastai.vision.learner import create_body, create_head, vision_learner
from fastai.vision.models.xresnet import xresnet18
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

import interp_plugins.fastai as adapter
from interp_plugins.core.errors import InputError, InterpError, LayerError
from interp_plugins.fastai.learner_info import activation_of

CAM = {"methods": "gradcam"}
torch.manual_seed(0)
BATCH = torch.rand(1, 3, 64, 64)


def body_and_head(architecture):
    torch.manual_seed(0)
    body = create_body(architecture(weights=None), pretrained=False)
    features = 512 if architecture is models.resnet18 else 256
    return nn.Sequential(body, create_head(features, 2)).eval()


@pytest.fixture(scope="module")
def resnet():
    return body_and_head(models.resnet18)


@pytest.fixture(scope="module")
def alexnet():
    return body_and_head(models.alexnet)


def test_F7_everything_is_a_plain_tensor(learn, dls, picture):
    exp = learn.explain(picture, methods="ig", n_steps=4, target=dls.valid_ds[0][1])[0]
    for value in (exp.attributions, exp.inputs, exp.baselines, exp.probability, exp.score, exp.convergence_delta):
        assert type(value) is torch.Tensor and value.device.type == "cpu"


def test_F7_models_may_use_functions_that_refuse_tensor_classes(make_learner, dls, net, picture):
    class Gathers(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            out = self.net(x)
            order = out.new_tensor([[1, 0]]).long().expand(len(x), 2)
            return out.gather(1, order)

    x, y = dls.valid.one_batch()
    learn = make_learner(dls, Gathers())
    for source in ({"item": picture}, {"xb": x}, {"ds_idx": 1, "target": "label"}, {"xb": x, "target": y}):
        assert learn.explain(**source, methods="saliency")[0].attributions.isfinite().all()


def test_F7_compiled_models(make_learner, dls, net, picture):
    model = net()
    plain = make_learner(dls, copy.deepcopy(model))
    compiled = make_learner(dls, torch.compile(model, backend="eager"))
    want, got = (learn.explain(picture, ("saliency", "gradcam")) for learn in (plain, compiled))
    assert all(torch.allclose(a.attributions, b.attributions, atol=1e-6) for a, b in zip(want, got))
    assert got[1].layer == "0"


@pytest.mark.parametrize("layer", ["0.7.1.bn2", "0.1"])
def test_F13_inplace_relu_does_not_change_what_is_explained(make_learner, dls, resnet, layer):
    apart = copy.deepcopy(resnet)
    for m in apart.modules():
        if hasattr(m, "inplace"):
            m.inplace = False
    want, got = (make_learner(dls, model).explain(xb=BATCH, layer=layer, **CAM)[0] for model in (apart, resnet))
    assert torch.equal(want.attributions, got.attributions) and got.layer == layer


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")  # fastai's
def test_F13_fastais_own_backward_hook_before(make_learner, dls, alexnet):
    learn = make_learner(dls, copy.deepcopy(alexnet))
    layer = learn.model[0][0]
    want = learn.explain(xb=BATCH, layer=layer, **CAM)[0]
    with hook_output(layer, grad=True), torch.enable_grad():
        learn.model(BATCH)[0, 0].backward()
    assert torch.equal(learn.explain(xb=BATCH, layer=layer, **CAM)[0].attributions, want.attributions)


def test_F14_a_frozen_body_is_explained_all_the_same(make_learner, dls, alexnet, unchanged):
    learn = make_learner(dls, copy.deepcopy(alexnet), splitter=lambda m: [list(p.parameters()) for p in m])
    want = learn.explain(xb=BATCH, methods=("gradcam", "saliency"))
    learn.freeze()
    assert not any(p.requires_grad for p in learn.model[0].parameters())
    with unchanged(learn):
        got = learn.explain(xb=BATCH, methods=("gradcam", "saliency"))
    assert all(torch.equal(a.attributions, b.attributions) for a, b in zip(want, got))
    assert got[0].attributions.isfinite().all() and got[0].attributions.abs().max() > 0


def test_F24_channels_last(make_learner, dls, resnet):
    last = copy.deepcopy(resnet).to(memory_format=torch.channels_last)
    methods = ("gradcam", "saliency")
    want, got = (make_learner(dls, model).explain(xb=BATCH, methods=methods) for model in (resnet, last))
    assert all(torch.allclose(a.attributions, b.attributions, atol=1e-5) for a, b in zip(want, got))


def test_F25_parallel_models_are_unwrapped(make_learner, dls, net, picture, unchanged):
    learn = make_learner(dls, net())
    want = learn.explain(picture, layer="0.1", **CAM)[0]
    learn.model = nn.DataParallel(learn.model)
    with unchanged(learn):
        got = learn.explain(picture, layer="0.1", **CAM)[0]
    assert got.layer == want.layer == "0.1" and torch.equal(got.attributions, want.attributions)


def test_half_precision_models_get_half_precision_inputs(make_learner, dls, net, picture):
    exp = make_learner(dls, net().bfloat16()).explain(picture, methods="saliency")[0]
    assert exp.inputs.dtype == torch.bfloat16 and exp.attributions.isfinite().all()


def small_transformers():
    """A ViT and a Swin of both libraries, for pictures of 32 pixels."""
    swin = {"embed_dim": 16, "window_size": 4, "num_classes": 2}
    return {
        "timm vit": lambda: timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=2
        ),
        "timm swin": lambda: timm.models.SwinTransformer(
            img_size=32, patch_size=2, depths=(1, 1), num_heads=(2, 2), **swin
        ),
        "torchvision vit": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=2),
        "torchvision swin": lambda: models.SwinTransformer([2, 2], 16, [1, 1], [2, 2], [4, 4], num_classes=2),
        "torchvision convnext": lambda: models.ConvNeXt(
            [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=2
        ),
    }


ARCHITECTURES = {"resnet18": models.resnet18, "xresnet18": xresnet18, "timm convnext": "convnext_atto"}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *small_transformers()])
def test_models_of_timm_and_torchvision(make_learner, make_dls, tmp_path, name, unchanged):
    data = make_dls(item_tfms=Resize(32), batch_tfms=None)
    torch.manual_seed(0)
    if name in ARCHITECTURES:
        learn = vision_learner(data, ARCHITECTURES[name], pretrained=False, normalize=False, path=tmp_path)
        learn.freeze()
    else:
        learn = make_learner(data, small_transformers()[name]())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    steps = {"integrated_gradients": {"tol": 0.05, "max_steps": 4096}, "occlusion": {}}
    with unchanged(learn):
        exps = learn.explain(idxs=[0], methods=steps)
    assert all(e.attributions.shape == (1, 3, 32, 32) and e.attributions.abs().max() > 0 for e in exps)
    # Hardly trained, the picture scores like the baseline: the error is compared with the map's whole strength.
    assert exps[0].convergence_delta.abs() < 0.02 * exps[0].attributions.abs().sum()
    with unchanged(learn), contextlib.suppress(LayerError):  # a map of the picture, or a text; never something else
        cam = learn.explain(idxs=[0], **CAM)[0].attributions
        assert cam.shape[:2] == (1, 1) and cam.shape[2] == cam.shape[3] > 1


@pytest.mark.parametrize("way", ["to_fp16", "to_channelslast"])
def test_F24_learners_that_train_in_another_format(make_learner, dls, net, picture, way, unchanged):
    learn = make_learner(dls, net())
    getattr(learn, way)()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    with unchanged(learn):
        got = learn.explain(picture, methods=("gradcam", "ig", "occlusion"), n_steps=8)
    plain = make_learner(dls, copy.deepcopy(learn.model).to(memory_format=torch.contiguous_format))
    want = plain.explain(picture, methods=("gradcam", "ig", "occlusion"), n_steps=8)
    assert all(torch.allclose(a.attributions, b.attributions, atol=1e-5) for a, b in zip(want, got))
    assert got[0].inputs.dtype == torch.float32


def test_layer_by_module_name_or_function(learn, picture):
    ways = (learn.model[0][1], "0.1", lambda m: m[0][1])
    first, *rest = (learn.explain(picture, layer=way, **CAM)[0] for way in ways)
    assert all(torch.equal(first.attributions, e.attributions) and e.layer == "0.1" for e in rest)


def test_default_layer_is_the_last_map_of_the_body(make_learner, dls, net, resnet, picture):
    assert make_learner(dls, resnet).explain(xb=BATCH, **CAM)[0].layer == "0"
    body = net()[0]
    spatial_head = nn.Sequential(nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert make_learner(dls, nn.Sequential(body, spatial_head)).explain(picture, **CAM)[0].layer == "0"
    flat = nn.Sequential(*body, *spatial_head)
    assert make_learner(dls, flat).explain(picture, **CAM)[0].layer == "4"
    no_map = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    no_map(torch.rand(1, 3, 20, 20))
    with pytest.raises(InterpError, match="layer="):
        make_learner(dls, no_map).explain(picture, **CAM)


def test_F12_an_exported_learner_explains_the_same(learn, picture, tmp_path, unchanged):
    methods = {"integrated_gradients": {"n_steps": 4}, "gradcam": {}, "gradient_shap": {}}
    want = learn.explain(picture, methods)
    learn.export(tmp_path / "model.pkl")
    loaded = load_learner(tmp_path / "model.pkl")
    with unchanged(loaded):
        got = loaded.explain(picture, methods)
    assert all(torch.equal(a.attributions, b.attributions) for a, b in zip(want, got))
    assert [e.target_label for e in got] == [e.target_label for e in want]
    for ds_idx in (0, 1):
        with unchanged(loaded), pytest.raises(InputError, match=r"no data.*items"):
            loaded.explain(ds_idx=ds_idx)
    truth = loaded.explain(picture, methods="saliency", target="label")[0]
    assert truth.target_label == (picture.parent.name,)


def test_F12_nothing_of_ours_is_exported(learn, picture, tmp_path):
    learn.explain(picture, methods="saliency")
    learn.export(tmp_path / "model.pkl")
    assert b"interp_plugins" not in (tmp_path / "model.pkl").read_bytes()


def test_F23_plain_loaders_and_losses(net, tmp_path):
    data = TensorDataset(torch.rand(8, 3, 20, 20), torch.randint(0, 2, (8,)))
    torch.manual_seed(0)
    learn = Learner(DataLoaders(*[DataLoader(data, 4)] * 2), net(), loss_func=nn.CrossEntropyLoss(), path=tmp_path)
    x = data.tensors[0][:3]
    exp = learn.explain(xb=x, methods="saliency")[0]
    with torch.no_grad():
        want = learn.model.eval()(x).softmax(1).max(1)
    assert torch.allclose(exp.probability, want.values) and exp.target == tuple(want.indices.tolist())
    assert exp.target_label == exp.target and exp.spec.kind == "image"
    with pytest.raises(InputError, match="xb="):
        learn.explain("a.png")
    from_datasets = DataLoaders.from_dsets(data, data, bs=4, num_workers=0)
    with pytest.raises(InputError, match="xb="):
        Learner(from_datasets, net(), loss_func=nn.CrossEntropyLoss()).explain("a.png")
    batches = learn.explain(dl=[tuple(data[:4])], target="label", methods="saliency")[0]
    assert batches.target == tuple(data.tensors[1][:4].tolist())


@pytest.mark.parametrize(
    "loss, probability",
    [
        (CrossEntropyLossFlat(), "softmax"),
        (FocalLossFlat(), "softmax"),
        (nn.CrossEntropyLoss(), None),
        (BaseLoss(nn.CrossEntropyLoss), None),
        (lambda out, y: out.sum(), None),
        (nn.BCEWithLogitsLoss(), "sigmoid"),
        (nn.functional.binary_cross_entropy_with_logits, "sigmoid"),
        (nn.NLLLoss(), "exp"),
        (BaseLoss(nn.MSELoss), "none"),
        (nn.functional.l1_loss, "none"),
        (None, None),
    ],
)
def test_F23_probabilities_by_the_loss(loss, probability):
    out = torch.tensor([[1.0, 2.0, -1.0]])
    known = {"softmax": out.softmax(1), "sigmoid": out.sigmoid(), "exp": out.exp(), "none": None}
    activation = activation_of(loss)
    if probability in (None, "none"):
        assert activation is None if probability is None else activation(out) is None
    else:
        assert torch.allclose(activation(out), known[probability])


def test_F23_mixup_hides_the_loss_only_from_others():
    class MixUp:
        old_lf = CrossEntropyLossFlat()

        def lf(self, pred, *yb):
            return pred.sum()

    out = torch.tensor([[1.0, 2.0]])
    assert torch.allclose(activation_of(MixUp().lf)(out), out.softmax(1))


def rows_seen(learn, **kwargs):
    seen = []
    handle = learn.model[0].register_forward_hook(lambda m, args, out: seen.append(len(out)))
    try:
        learn.explain(methods="ig", **kwargs)
    finally:
        handle.remove()
    return sum(seen), max(seen)


def test_F27_every_keyword_counts(learn, picture, unchanged):
    few, many = (rows_seen(learn, item=picture, n_steps=n)[0] for n in (4, 24))
    assert many - few >= 20
    assert rows_seen(learn, ds_idx=1, n_steps=4, batch_size=2)[1] <= 6
    with unchanged(learn), pytest.raises(TypeError, match="Did you mean 'n_steps'"):
        learn.explain(picture, n_stepz=7)
    first, second, other = (
        learn.explain(picture, "noise_tunnel", nt_samples=2, stdevs=0.5, seed=s)[0].attributions for s in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_F28_star_import_brings_few_names():
    names: dict[str, object] = {}
    exec("from interp_plugins.fastai import *", names)
    own = {"AttributionCallback", "CaptumInterpretation", "Explanation", "Explanations", "MarginHistory"}
    own |= {"NeuronCallback", "RobustnessCallback", "show_explanations"}
    assert set(names) - {"__builtins__"} == own == set(adapter.__all__)
    assert Learner.explain.__doc__


def test_F28_signature_is_the_documented_one():
    parameters = inspect.signature(Learner.explain).parameters
    assert list(parameters) == [
        "self", "item", "methods", "target", "against", "dl", "ds_idx", "idxs", "xb", "layer", "baselines",
        "batch_size", "seed", "output", "label_key", "budget", "rm_type_tfms", "progress", "params",
    ]  # fmt: skip
    assert parameters["methods"].default is None and parameters["budget"].default == "fast"


def test_results_show_themselves(learn, dls):
    exps = learn.explain(idxs=[0, 1], methods=("saliency", "gradcam"))
    html = exps._repr_html_()
    assert html and dls.valid_ds.items[0].name in html
    assert exps.to_df() is not None and "gradcam" not in repr(learn.__dict__)
