"""What is explained: the predicted class, an index, a name, the ground truth, or several of them."""

import pytest
import torch
from fastai.data.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from fastai.torch_core import TensorCategory
from fastai.vision.data import ImageBlock

from interp_plugins import Contrast
from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.target import Probability, Target

FAST = {"methods": "saliency"}


@pytest.fixture
def wrong(learn):
    """A Learner that says dog to everything."""
    with torch.no_grad():
        learn.model[1][-1].bias.copy_(torch.tensor([-9.0, 9.0]))
    return learn


def test_F8_default_is_the_predicted_class_not_the_label(wrong, dls):
    cats = [i for i, p in enumerate(dls.valid_ds.items) if p.parent.name == "cat"]
    exp = wrong.explain(idxs=cats, **FAST)[0]
    assert exp.target == exp.prediction == (1,) * len(cats) and set(exp.target_label) == {"dog"}
    truth = wrong.explain(idxs=cats, target="label", **FAST)[0]
    assert truth.target == (0,) * len(cats) and truth.prediction == exp.prediction
    assert not torch.equal(truth.attributions, exp.attributions)


def test_F8_label_is_one_class_per_sample(learn, dls):
    want = tuple(p.parent.name for p in dls.valid_ds.items)
    assert len(set(want)) == 2
    assert learn.explain(ds_idx=1, target="label", **FAST)[0].target_label == want
    assert learn.explain(dl=dls.valid, target="label", **FAST)[0].target_label == want
    assert learn.explain(list(dls.valid_ds.items), target="label", **FAST)[0].target_label == want
    assert learn.explain(str(dls.valid_ds.items[0]), target="label", **FAST)[0].target_label == want[:1]


@pytest.mark.parametrize(
    "target, index",
    [(0, 0), (-1, 1), ("cat", 0), ("DOG", 1), (("label", "dog"), 1), (torch.tensor(1), 1), (TensorCategory(1), 1)],
)
def test_F8_index_or_name(learn, picture, target, index):
    exp = learn.explain(picture, target=target, **FAST)[0]
    assert exp.target == (index,) and exp.target_label == (("cat", "dog")[index],)


def test_F8_a_list_gives_one_explanation_each(learn, dls):
    exps = learn.explain(idxs=[0, 1], methods=("saliency", "ig"), target=["dog", 0, "label", None], n_steps=4)
    truth = tuple(p.parent.name for p in dls.valid_ds.items[:2])
    assert [e.method for e in exps] == ["saliency"] * 4 + ["integrated_gradients"] * 4
    assert exps[0].target_label == ("dog", "dog") and exps[1].target == (0, 0) and exps[2].target_label == truth
    assert exps[3].target == exps[3].prediction


def test_F8_any_function_of_the_output(learn, picture):
    exp = learn.explain(picture, target=lambda output: output[:, 1] - output[:, 0], **FAST)[0]
    assert exp.target is None and exp.probability is None
    assert exp.attributions.abs().max() > 0


def test_F8_bool_labels_are_labels(make_learner, block_dls, picture):
    learn = make_learner(block_dls(get_y=lambda p: p.parent.name == "cat"))
    assert learn.explain(picture, target=True, **FAST)[0].target == (1,)
    assert learn.explain(picture, target=1, **FAST)[0].target_label == (True,)
    assert learn.explain(picture, target=False, **FAST)[0].target == (0,)


def test_F8_an_int_is_an_index_even_where_labels_are_ints(make_learner, block_dls, picture):
    learn = make_learner(block_dls(get_y=lambda p: 7 if p.parent.name == "cat" else 1))
    assert learn.explain(picture, target=1, **FAST)[0].target_label == (7,)
    assert learn.explain(picture, target=("label", 1), **FAST)[0].target == (0,)
    with pytest.raises(TargetError, match="out of range"):
        learn.explain(picture, target=7, **FAST)


def test_an_unknown_label_has_a_neighbour(learn, picture, unchanged):
    with unchanged(learn), pytest.raises(TargetError, match="Did you mean 'cat'"):
        learn.explain(picture, target="catt", **FAST)


def test_label_needs_a_ground_truth(learn, dls, picture, tmp_path, unchanged):
    from PIL import Image

    x = dls.valid.one_batch()[0]
    stray = tmp_path / "stray.png"
    Image.open(picture).save(stray)
    for source in ({"item": Image.open(picture)}, {"xb": x}, {"item": stray}, {"dl": dls.test_dl([picture])}):
        with unchanged(learn), pytest.raises(TargetError, match="ground truth"):
            learn.explain(**source, target="label", **FAST)


def test_multi_label(make_learner, block_dls, net, picture):
    def kinds(path):
        return [path.parent.name, "third"] if int(path.stem[-2:]) % 3 == 0 else [path.parent.name]

    dls = block_dls(blocks=(ImageBlock, MultiCategoryBlock), get_y=kinds)
    learn = make_learner(dls, net(classes=3))
    exps = learn.explain(picture, target=["cat", "third"], **FAST)
    assert [e.target_label for e in exps] == [("cat",), ("third",)]
    with learn.no_bar():
        probabilities = learn.predict(picture)[2]
    for exp in exps:
        assert exp.probability[0].item() == pytest.approx(probabilities[exp.target[0]].item(), abs=1e-5)
    truth = [kinds(p) for p in dls.valid_ds.items]
    one, two = ([i for i, t in enumerate(truth) if len(t) == n] for n in (1, 2))
    assert learn.explain(idxs=one, target="label", **FAST)[0].target_label == tuple(truth[i][0] for i in one)
    several = learn.explain(idxs=two, target="label", **FAST)  # one for each label that any of them has
    assert {e.target_label[0] for e in several} == {label for i in two for label in truth[i]}


def test_regression_has_no_probability(make_learner, block_dls, net, picture):
    learn = make_learner(block_dls(blocks=(ImageBlock, RegressionBlock), get_y=lambda p: len(p.name)), net(classes=1))
    exp = learn.explain(picture, **FAST)[0]
    assert exp.probability is None and exp.spec.vocab is None and exp.target_label == ("output",)
    with pytest.raises(TargetError, match="one class per sample"):
        learn.explain(ds_idx=1, target="label", **FAST)


def test_F8_a_contrast_of_two_classes(wrong, dls, unchanged):
    cats = [i for i, p in enumerate(dls.valid_ds.items) if p.parent.name == "cat"]
    exp = wrong.explain(idxs=cats, target=Contrast("dog", "cat"), **FAST)[0]
    assert exp.target_label == ("dog rather than cat",) * len(cats) and exp.probability is None
    by_hand = wrong.explain(idxs=cats, target=lambda output: output[:, 1] - output[:, 0], **FAST)[0]
    assert torch.equal(exp.score, by_hand.score) and torch.equal(exp.attributions, by_hand.attributions)
    for target in (Contrast(None, "label"), Contrast(1, "cat"), [Contrast(("label", "dog"), 0)]):
        assert torch.equal(wrong.explain(idxs=cats, target=target, **FAST)[0].attributions, exp.attributions)
    with unchanged(wrong), pytest.raises(TargetError, match="compares 'dog' with itself"):
        wrong.explain(idxs=cats, target=Contrast(None, "dog"), **FAST)
    with pytest.warns(InterpWarning, match="In sample .* with itself"):
        wrong.explain(ds_idx=1, target=Contrast("dog", "label"), **FAST)
    with unchanged(wrong), pytest.raises(TargetError, match="Did you mean 'cat'"):
        wrong.explain(idxs=cats, target=Contrast("catt", "dog"), **FAST)


def test_names_of_other_classes_are_not_used(make_learner, dls, net, picture):
    learn = make_learner(dls, net(classes=5))
    with pytest.warns(InterpWarning, match="2 class names are known, but the model has 5 outputs"):
        exp = learn.explain(picture, **FAST)[0]
    assert exp.target_label == exp.target and exp.spec.vocab is None


def test_categories_are_read_off_the_block(make_learner, block_dls, net, picture):
    learn = make_learner(block_dls(blocks=(ImageBlock, CategoryBlock(vocab=["dog", "bird", "cat"]))), net(classes=3))
    assert learn.explain(picture, target="bird", **FAST)[0].target == (learn.dls.vocab.o2i["bird"],) == (0,)


class Twice(Target):
    """Two times what another target selects."""

    def __init__(self, of):
        self.of = of

    def map(self, function):
        return Twice(function(self.of))

    def at(self, rows):
        return Twice(self.of.at(rows))

    def __call__(self, output):
        return 2 * self.of(output)


def test_a_new_target_takes_names_and_the_ground_truth(learn, dls):
    asked = ["label", "dog", Twice("label"), Twice("dog"), Twice(Twice(None)), Contrast(Twice("dog"), "dog")]
    asked += [Probability("label")]
    exps = learn.explain(idxs=[0, 1], target=asked, **FAST)
    truth, dog = (exp.attributions for exp in exps[:2])
    for exp, expected in zip(exps[2:4], (truth, dog)):
        torch.testing.assert_close(exp.attributions, 2 * expected)
    torch.testing.assert_close(exps[4].attributions, 4 * learn.explain(idxs=[0, 1], **FAST)[0].attributions)
    torch.testing.assert_close(exps[5].attributions, dog)
    assert exps[6].target_label == tuple(f"p({name})" for name in exps[0].target_label)
