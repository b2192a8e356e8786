"""Results beside the maps: each kind is drawn by the code of its own page, and tags go back to where they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import expect
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from interp_plugins import explain
from interp_plugins.cli import app
from interp_plugins.concept import concepts
from interp_plugins.core.errors import InputError, MissingFileError
from interp_plugins.core.spec import InputSpec
from interp_plugins.influence import Suspects, influence, suspects
from interp_plugins.insights import Record, Session, serve, widget, write_report
from interp_plugins.insights.records import kinds, load_record
from interp_plugins.llm import TextExplanation
from interp_plugins.optim import atlas, dataset_examples
from tests.insights.nets import Squares, squares

SPEC = InputSpec("image", vocab=("ant", "bee", '<b onclick="x">cat</b>'))


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A net of pictures with places, a pooled head, and labels of which the sixth is wrong."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    )
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[range(3), range(3), 1, 1] = 1
        net[4].weight.copy_(30 * torch.eye(3))
    y = torch.arange(48) % 3
    y[5] = 0
    return net.eval(), squares(48) + 0.02 * torch.rand(48, 3, 16, 16), y


def answer() -> TextExplanation:
    return TextExplanation(
        text="In Rome.", spans=((0, 2), (3, 7)), sentences=((0, 8),), inputs=("In", "Rome"), outputs=(" the", " city"),
        seq_attr=torch.tensor([0.5, 2.0]), token_attr=torch.tensor([[0.5, 0.0], [0.0, 2.0]]),
        output_probs=torch.tensor([0.5, 0.25]), score=-2.08, empty=-4.58, method="feature_ablation", level="word",
        absence="remove",
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    net, x, y = small()
    found = influence(net, x[:2], (x, y), k=2, input_spec=SPEC)
    loader = DataLoader(TensorDataset(x[:24], y[:24]), 8)
    return {
        "suspects": suspects(net, (x, y), input_spec=SPEC, k=8),
        "influence": Record(found, "Why?", maps=found.explain(net, "saliency")),
        "concepts": concepts(net, loader, target=1, n_concepts=2, input_spec=SPEC),
        "answer": answer(),
        "examples": dataset_examples(net, loader, layer=net[1], input_spec=SPEC),
    }


def shadow(page: Any, selector: str) -> Any:
    return page.locator(".record").locator(selector)


def test_each_kind_of_result_has_a_tab_in_one_file(results: dict[str, Any], tmp_path: Path, page: Any) -> None:
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    path = write_report((), tmp_path / "all.html", records=results.values(), title="All")
    page.goto(path.as_uri())
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Suspects", "Why?", "Concepts", "Answer", "Units"]
    for k, (tab, text) in enumerate(
        [("Suspects", "rather"), ("Why?", "Speak for it"), ("Concepts", "How certain"), ("Answer", "by word")]
    ):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(".record [data-ready]")
        assert text in page.locator(".record > div").evaluate("view => view.shadowRoot.textContent"), tab
        assert tabs.nth(k).get_attribute("aria-selected") == "true"
    shadow(
        page,
        "label",
    ).filter(has_text="city").hover()
    expect(shadow(page, ".m:visible .note")).to_contain_text("sum 2")
    page.get_by_role("tab", name="Units").click()
    shadow(page, "select").select_option("largest down")
    assert shadow(page, ".unit").count() == 3
    assert not page.locator("b[onclick]").count() and errors == []


def test_pointing_at_an_item_shows_its_map_and_the_query_s(results: dict[str, Any], tmp_path: Path, page: Any) -> None:
    page.goto(write_report((), tmp_path / "why.html", records=[results["influence"]]).as_uri())
    page.wait_for_selector(".record [data-ready]")
    opacity = "el => getComputedStyle(el).opacity"
    items = shadow(page, ".strip figure")
    own, query, other = items.first.locator(".map"), shadow(page, ".query .map").first, items.nth(1).locator(".map")
    assert [one.evaluate(opacity) for one in (own, query, other)] == ["0", "0", "0"]
    items.first.hover()
    assert [one.evaluate(opacity) for one in (own, query, other)] == ["1", "1", "0"]
    page.mouse.move(0, 0)
    items.nth(1).focus()
    assert [one.evaluate(opacity) for one in (own, query, other)] == ["0", "1", "1"]
    shadow(page, ".all").first.check()
    assert [one.evaluate(opacity) for one in (own, query, other)] == ["1", "1", "1"]


def test_tags_are_saved_with_the_notes_and_read_back(results: dict[str, Any], tmp_path: Path, page: Any) -> None:
    found: Suspects = results["suspects"]
    page.goto(write_report((), tmp_path / "s.html", records=[found]).as_uri())
    page.wait_for_selector(".record [data-ready]")
    for key in "fkd":
        page.keyboard.press(key)
    shadow(page, "input[aria-label=label]").first.fill("bee, the")
    with page.expect_download() as table:
        shadow(page, "#csv").click()
    with page.expect_download() as rows:
        shadow(page, "#json").click()
    with page.expect_download() as notes:
        page.get_by_role("button", name="Save notes").click()
    top = found.top(3)
    for saved in (table, rows):
        back = found.tags(str(saved.value.path()))
        assert back["item"].tolist() == top and back["tag"].tolist() == ["fix", "keep", "drop"]
        assert back["label"][0] == "bee, the" and back["label"][1] == back["given"][1] and back["label"][2] == ""
    remarks = json.loads(Path(notes.value.path()).read_text())
    assert [(one["record"], one["item"], one["tags"]) for one in remarks] == [
        (0, top[0], ["fix"]),
        (0, top[1], ["keep"]),
        (0, top[2], ["drop"]),
    ]
    page.goto(found.to_html(tmp_path / "again.html", tags=str(table.value.path())).path.as_uri())  # its own page
    assert page.locator("article").first.get_attribute("data-tag") == "fix"
    assert page.locator("article input").first.input_value() == "bee, the"
    page.keyboard.press("u")
    page.set_input_files("#load", str(rows.value.path()))
    expect(page.locator("#count")).to_have_text("1 fix, 1 keep, 1 drop")
    assert page.locator("article").first.get_attribute("data-tag") == "fix"


def test_a_live_session_hears_of_tags(results: dict[str, Any], page: Any) -> None:
    made: list[Session] = []

    def session() -> Session:
        made.append(Session(Squares(), squares(2), records=[results["suspects"], results["examples"]]))
        return made[-1]

    with serve(session) as server:
        page.goto(server.url)
        page.wait_for_selector(".card[data-ready]")
        page.get_by_role("tab", name="Suspects").click()
        page.wait_for_selector(".record [data-ready]")
        page.keyboard.press("d")
        page.get_by_role("tab", name="Samples").click()
        assert page.locator(".card").count() == 2
        page.get_by_role("tab", name="Suspects").click()
        first = results["suspects"].top(1)[0]
        for _ in range(50):
            if made[0].said():
                break
            page.wait_for_timeout(20)
    assert made[0].said() == {first: {"tags": ["drop"], "note": ""}} and made[0].said(1) == {}
    assert results["suspects"].tags(made[0].said())["tag"].tolist() == ["drop"]
    assert "insights-record-1" in made[0].to_html()


def test_messages_about_records(new_session: Any, talk: Any, results: dict[str, Any]) -> None:
    session = new_session(2, records=[results["answer"]])
    assert session.catalogue["records"] == [{"kind": "answer", "tab": "Answer"}]
    (got,) = talk(session, type="record", record=0)
    assert set(got["result"]) == {"title", "lead", "body", "style", "facts"} and "Rome" in got["result"]["body"]
    for wrong in (1, -1, "0", True, None):
        assert "There is no record" in talk(session, type="record", record=wrong)[-1]["error"]
    session.receive({"id": 2, "type": "notes", "notes": {"0/7": {"tags": ["fix"], "note": "9"}}}, lambda _: None)
    assert session.said() == {7: {"tags": ["fix"], "note": "9"}}
    with pytest.raises(InputError, match="no record 3"):
        session.said(3)


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shows results of the kinds Suspects, Influences, .*got"):
        write_report((), tmp_path / "x.html", records=[torch.ones(3)])
    with pytest.raises(InputError, match="nothing to show"):
        Session.of_records()
    with pytest.raises(InputError):
        write_report((), tmp_path / "x.html")
    assert len({kind.name for kind in kinds()}) == len(kinds())


def test_wrong_tags_are_refused(results: dict[str, Any], tmp_path: Path) -> None:
    found: Suspects = results["suspects"]
    (tmp_path / "a.csv").write_text("item,tag\n5,fix\n")
    assert found.tags(tmp_path / "a.csv")["item"].tolist() == [5]
    for text, said in (
        ("item,tag\n500,fix\n", "no item 500"),
        ("item,tag\n5,mend\n", "tag 'mend'; known: keep, fix, drop"),
        ("item,given,tag\n5,bee,fix\n", "was tagged when its label was 'bee', and now it is 'ant'"),
        ("item\n5\n", "holds no tags"),
        ("[3]", "holds no tags"),
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(InputError, match=said):
            found.tags(tmp_path / "b.csv")
    with pytest.raises(MissingFileError, match="Save tags"):
        found.tags(tmp_path / "none.csv")
    with pytest.raises(InputError, match="Notes of a viewer"):
        found.tags({5: 3})
    with pytest.raises(InputError, match="got int"):
        found.tags(3)


def test_an_atlas_turns_to_the_chosen_tile(tmp_path: Path, page: Any) -> None:
    torch.manual_seed(0)
    net, x, _ = small()
    made = atlas(net, x[:24], layer=net[1], grid=(3, 3), min_count=1, embed="pca", steps=2)
    page.goto(write_report((), tmp_path / "a.html", records=[made]).as_uri())
    page.wait_for_selector(".record [data-ready]")
    shadow(page, "#map button").last.hover()
    assert shadow(page, "#told > div").last.evaluate("el => el.classList.contains('on')")
    before = shadow(page, "#map button").first.bounding_box()["width"]
    shadow(page, "#zoom").fill("240")
    assert before == 160 and shadow(page, "#map button").first.bounding_box()["width"] == 240


def test_saved_results_are_shown_again(results: dict[str, Any], tmp_path: Path) -> None:
    found = results["suspects"]
    saved = {
        "suspects": found.save(tmp_path / "s.safetensors", n=7),
        "influence": results["influence"].result.save(tmp_path / "i.safetensors"),
        "concepts": results["concepts"].save(tmp_path / "c.safetensors"),
        "examples": results["examples"].save(tmp_path / "e.safetensors"),
        "answer": results["answer"].save(tmp_path / "a.json"),
    }
    for name, path in saved.items():
        record = load_record(path)
        assert record.kind.name == name and record.page()["body"], name
    assert (
        7 <= load_record(saved["suspects"]).page()["body"].count("<article") < 48
    )  # the eighth may be kept as a neighbour
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(InputError, match="none of the results"):
        load_record(tmp_path / "x")
    with pytest.raises(MissingFileError):
        load_record(tmp_path / "none")
    explain(Squares(), squares(2), "saliency").save(tmp_path / "exps.safetensors")
    options = ["--record", str(saved["suspects"]), "--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "exps.safetensors"), *options])
    assert done.exit_code == 0, done.output
    assert 'id="insights-record-0"' in (tmp_path / "page.html").read_text()


def test_a_notebook_s_widget_has_the_scripts_of_its_records(results: dict[str, Any]) -> None:
    pytest.importorskip("anywidget")
    made = widget(Session.of_records(results["suspects"]))
    assert "suspects: (root, facts, kept)" in made._esm and made.catalogue["samples"] == []
    made.close()
