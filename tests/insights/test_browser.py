"""The viewer in a real browser: the saved file and the live page."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from playwright.sync_api import expect

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Precomputed, report_html, serve, write_report
from interp_plugins.insights.report import catalogue, file_html, records_of, run_blocks
from tests.insights.nets import CLASSES, Broken, Squares, squares

PIXEL = "([x, y]) => Array.from(document.querySelector('canvas').getContext('2d').getImageData(x, y, 1, 1).data)"


def explained(n: int = 4, **fields) -> Explanation:
    x = squares(n)
    known = {
        "attributions": x - 0.25 * (x == 0),
        "inputs": x,
        "method": "input_x_gradient",
        "title": "Input X Gradient",
        "prediction": tuple(i % 3 for i in range(n)),
        "prediction_label": tuple(CLASSES[i % 3] for i in range(n)),
        "target": tuple(i % 3 for i in range(n)),
        "target_label": tuple(CLASSES[i % 3] for i in range(n)),
        "probability": torch.linspace(0.9, 0.3, n),
        "score": torch.ones(n),
        "spec": InputSpec(kind="image", vocab=CLASSES),
        "names": tuple(f"picture {i}" for i in range(n)),
    }
    return Explanation(**{**known, **fields})


def opened(page, tmp_path, exps, **kwargs):
    path = write_report(exps, tmp_path / "report.html", **kwargs)
    page.goto(path.as_uri())
    page.wait_for_selector(".card[data-ready], .status")
    return page


def option(page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).select_option(value)


def slide(page, label: str, value: float) -> float:
    """Move a slider; milliseconds until the maps are painted."""
    return page.get_by_label(label, exact=True).evaluate(
        """(el, value) => {
            const begin = performance.now();
            el.value = value;
            el.dispatchEvent(new Event("input"));
            return performance.now() - begin;
        }""",
        value,
    )


def test_a_saved_file_shows_its_samples_from_the_disk(page, tmp_path):
    opened(page, tmp_path, [explained()], labels=[0, 0, 2, 0], title="Squares")
    page.wait_for_selector("canvas")
    assert page.inner_text("h1") == "Squares"
    assert page.locator(".card").count() == 4 and page.locator("canvas").count() == 4
    assert page.locator(".badge.right").count() == 3 and page.locator(".badge.wrong").count() == 1


def test_sliders_and_choices_change_pixels(page, tmp_path):
    opened(page, tmp_path, [explained(1)])
    page.wait_for_selector("canvas")
    option(page, "Picture", "heatmap")
    inside, outside = page.evaluate(PIXEL, [5, 5]), page.evaluate(PIXEL, [0, 0])
    assert inside[0] > inside[2] and outside[2] > outside[0]  # orange raises, blue lowers
    option(page, "Sign", "positive")
    assert page.evaluate(PIXEL, [0, 0])[:3] == [255, 255, 255]
    option(page, "Sign", "both")
    slide(page, "Threshold", 0.7)  # two thirds of the limit lie inside, all of it outside
    assert page.evaluate(PIXEL, [5, 5])[:3] == [255, 255, 255] and page.evaluate(PIXEL, [0, 0]) == outside
    slide(page, "Threshold", 0)
    option(page, "Signed colours", "brown and teal")
    assert page.evaluate(PIXEL, [5, 5]) != inside
    option(page, "Picture", "overlay")
    slide(page, "Opacity", 0)
    assert len(set(page.evaluate(PIXEL, [5, 5])[:3])) == 1  # the picture alone, in grey


def test_filters_sort_search_and_empty_results(page, tmp_path):
    opened(page, tmp_path, [explained(6)], labels=[0, 0, 2, 0, 1, 2])
    option(page, "Show", "false")
    assert page.locator(".card h2").all_inner_texts() == ["picture 1"]
    option(page, "Show", "")
    option(page, "Order", "unsure")
    assert page.locator(".card h2").first.inner_text() == "picture 5"
    page.get_by_label("Search").fill("green")
    assert page.locator(".card").count() == 2
    page.get_by_label("Search").fill("no such thing")
    assert page.locator(".card").count() == 0
    assert "None of the 6 samples passes these filters" in page.inner_text(".status")


def test_unlabelled_data_have_no_controls_for_truth(page, tmp_path):
    opened(page, tmp_path, [explained()])
    assert page.get_by_label("Truth", exact=True).count() == 0 and page.get_by_label("Show", exact=True).count() == 0
    assert page.locator(".card").count() == 4


def test_text_from_labels_is_never_markup(page, tmp_path):
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    opened(page, tmp_path, [explained()], title='"><script>alert(1)</script>')
    assert page.inner_text("h1") == '"><script>alert(1)</script>'
    assert '<script>alert("x")</script>' in page.locator(".card .facts").nth(2).inner_text()
    assert page.locator("#insights script").count() == 0


def test_pages_turn_by_button_and_key(page, tmp_path):
    opened(page, tmp_path, [explained(14)])
    assert page.locator(".card").count() == 12
    page.get_by_label("Next page").click()
    assert page.locator(".card").count() == 2
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".card").count() == 12
    page.locator(".card").first.focus()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.dataset.index") == "1"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"


def test_pointer_and_zoom_are_linked_within_a_sample(page, tmp_path):
    opened(page, tmp_path, [explained(1), explained(1, method="saliency", title="Saliency")])
    expect(page.locator("canvas")).to_have_count(2)
    page.locator("canvas").first.hover(position={"x": 40, "y": 40})
    assert all("at" in text for text in page.locator(".readout").all_inner_texts() if text)
    assert sum(bool(text) for text in page.locator(".readout").all_inner_texts()) == 2
    page.get_by_label("Zoom in").click()
    assert set(page.eval_on_selector_all(".zoomed", "all => all.map((el) => el.style.transform)")) == {"scale(1.25)"}


def test_tags_and_notes_are_kept_found_and_saved(page, tmp_path):
    opened(page, tmp_path, [explained(2)])
    page.get_by_label("Note").nth(1).fill("odd corner")
    page.wait_for_timeout(300)
    page.get_by_label("Search").fill("odd")
    assert page.locator(".card h2").all_inner_texts() == ["picture 1"]
    with page.expect_download() as download:
        page.get_by_text("Save notes").click()
    saved = json.loads(download.value.path().read_text())
    assert saved[0]["note"] == "odd corner" and saved[0]["name"] == "picture 1"


def test_a_picture_of_a_sample_can_be_saved(page, tmp_path):
    opened(page, tmp_path, [explained(1)])
    page.wait_for_selector("canvas")
    with page.expect_download() as download:
        page.get_by_text("Save as PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_tokens_and_columns_are_drawn(page, tmp_path):
    text = Explanation(
        attributions=torch.tensor([[1.0, -0.5, 0.0]]), inputs=torch.tensor([[3, 4, 5]]), method="ig", title="IG",
        tokens=(["not", "<b>good</b>", "שלום"],), spec=InputSpec(kind="text"),
    )  # fmt: skip
    opened(page, tmp_path, [text])
    page.wait_for_selector(".token")
    assert page.locator(".token").all_inner_texts() == ["not", "<b>good</b>", "שלום"]
    table = Explanation(
        attributions=torch.tensor([[0.1, -0.9]]), inputs=torch.tensor([[39.0, 2.0]]), method="ig", title="IG",
        spec=InputSpec(kind="tabular", feature_names=("age", "hours")),
    )  # fmt: skip
    opened(page, tmp_path, [table])
    page.wait_for_selector(".bars")
    assert page.locator(".bars th").all_inner_texts() == ["hours = 2", "age = 39"]


def test_tables_have_rows_of_one_height_in_one_order_and_purple_bars_without_a_sign(page, tmp_path):
    names = ("a name that is much longer than the column that it stands in, and goes on", "age", "hours")
    signed, plain = (
        Explanation(
            attributions=torch.tensor([row]), inputs=torch.ones(1, 3), method=title, title=title,
            spec=InputSpec(kind="tabular", feature_names=names),
        )
        for title, row in (("IG", [0.1, -0.9, 0.5]), ("Saliency", [0.3, 0.2, 0.4]))
    )  # fmt: skip
    opened(page, tmp_path, [signed, plain])
    page.wait_for_selector(".bars >> nth=1")
    rows = [page.locator(f".bars >> nth={k}").locator("tr") for k in range(2)]
    order = [[th.split(" ")[0] for th in one.locator("th").all_inner_texts()] for one in rows]
    assert order[0] == order[1] == ["hours", "age", "a"]
    boxes = [one.nth(k).bounding_box() for one in rows for k in range(3)]
    assert len({round(box["height"]) for box in boxes}) == 1 and [b["y"] for b in boxes[:3]] == [
        b["y"] for b in boxes[3:]
    ]
    assert page.locator(".bars th").last.get_attribute("title") == f"{names[0]} = 1"
    looks = [set(one.locator(".bar").evaluate_all("all => all.map(b => b.className)")) for one in rows]
    assert looks == [{"bar plus", "bar minus"}, {"bar plain"}]


def test_a_growing_file_has_a_slider_over_its_runs(page, tmp_path):
    text = ""
    for run in range(3):
        exp = explained(2, attributions=squares(2) * (-1 if run == 1 else 1), score=torch.full((2,), float(run)))
        subject = Precomputed([exp], [0, 1])
        inputs, maps = records_of(subject)
        if run == 0:
            text = file_html(catalogue(subject, title="Runs"), inputs, maps, "epoch 0")
        else:
            text += run_blocks(run, f"epoch {run}", subject.samples(), [], maps)
    (tmp_path / "runs.html").write_text(text, encoding="utf-8")
    page.goto((tmp_path / "runs.html").as_uri())
    page.wait_for_selector("canvas")
    score = page.locator(".panel dl").first
    expect(score).to_contain_text("score2")  # the latest run is shown first
    option(page, "Picture", "heatmap")
    last = page.evaluate(PIXEL, [5, 5])
    assert slide(page, "Run", 1) < 200 and page.locator(".field output").filter(has_text="epoch 1").count() == 1
    expect(score).to_contain_text("score1")
    expect(page.locator("canvas")).to_have_count(2)
    assert page.evaluate(PIXEL, [5, 5]) != last
    page.get_by_label("All below each other").check()
    expect(page.locator("canvas")).to_have_count(6)
    assert page.locator(".card").first.locator("h3").all_inner_texts() == ["epoch 0", "epoch 1", "epoch 2"]


@pytest.fixture
def slowly():
    """Serve a page in two parts: its address, and a call that sends the second."""
    servers = []

    def start(first: str, second: str):
        released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/page" else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                if self.path == "/page":
                    self.wfile.write(first.encode())
                    self.wfile.flush()
                    released.wait(timeout=60)
                    self.wfile.write(second.encode())

            def log_message(self, *args) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append((server, released))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/page", released.set

    yield start
    for server, released in servers:
        released.set()
        server.shutdown()
        server.server_close()


def test_what_is_chosen_while_a_file_is_read_stays_chosen(page, slowly):
    parts = []
    for run in range(2):
        subject = Precomputed([explained(6)], [0, 0, 2, 0, 1, 2])
        inputs, maps = records_of(subject)
        if run == 0:
            parts.append(file_html(catalogue(subject, title="Runs"), inputs, maps, "epoch 0"))
        else:
            parts.append(run_blocks(run, "epoch 1", subject.samples(), [], maps))
    address, release = slowly(*parts)
    page.goto(address, wait_until="commit")
    page.wait_for_selector(".card[data-ready] canvas")
    option(page, "Show", "false")
    option(page, "Order", "unsure")
    option(page, "Picture", "heatmap")
    slide(page, "Opacity", 0.5)
    release()
    page.wait_for_selector("[aria-label=Runs]")
    chosen = {
        name: page.get_by_label(name, exact=True).input_value() for name in ("Show", "Order", "Picture", "Opacity")
    }
    assert chosen == {"Show": "false", "Order": "unsure", "Picture": "heatmap", "Opacity": "0.5"}
    assert page.locator(".card h2").all_inner_texts() == ["picture 1"]


def test_two_viewers_in_one_document_have_labels_of_their_own(page, tmp_path):
    opened(page, tmp_path, [explained(1)])
    label = page.locator("label", has_text="Opacity").get_attribute("for")
    opened(page, tmp_path, [explained(1)])
    assert page.locator(f"#{label}").count() == 0


def test_shares_are_written_out(page, tmp_path):
    opened(page, tmp_path, [explained(1, convergence_delta=torch.tensor([1.42]), baseline_score=torch.zeros(1))])
    assert "completeness error142 %" in page.inner_text(".panel dl").replace("\n", "")


def test_curves_are_drawn_beside_a_map(page, tmp_path):
    opened(page, tmp_path, [explained(1)], model=Squares())
    page.wait_for_selector(".curves polyline")
    assert page.locator(".curves polyline").count() == 2
    assert "insertion 0.405" in page.inner_text(".curves p") and "removed = black" in page.inner_text(".curves p")


def test_the_same_token_is_shown_in_all_maps(page, tmp_path):
    text = Explanation(
        attributions=torch.tensor([[1.0, -0.5]]), inputs=torch.tensor([[3, 4]]), method="ig", title="IG",
        tokens=(["not", "good"],), spec=InputSpec(kind="text"),
    )  # fmt: skip
    opened(page, tmp_path, [text, text])
    page.locator(".token").nth(1).hover()
    assert page.locator(".linked").all_inner_texts() == ["good", "good"]
    page.get_by_text("Copy as code").click()
    assert "explain(model, inputs[[0]], methods={'ig': {}})" in page.inner_text(".code")


def test_notes_that_were_saved_can_be_loaded(page, tmp_path):
    opened(page, tmp_path, [explained(2)])
    (tmp_path / "notes.json").write_text(json.dumps([{"sample": 1, "tags": ["odd"], "note": "a corner"}]))
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.json")
    expect(page.get_by_label("Note", exact=True).nth(1)).to_have_value("a corner")
    (tmp_path / "other.json").write_text("{}")
    page.locator("input[type=file]").set_input_files(tmp_path / "other.json")
    expect(page.locator(".status")).to_contain_text("holds no notes")


@pytest.mark.slow
def test_five_hundred_samples_stay_quick(page, tmp_path):
    """First paint within two seconds, a slider within 50 ms."""
    n = 500
    x = torch.rand(n, 3, 64, 64)
    exp = explained(n, inputs=x, attributions=torch.randn(n, 3, 64, 64))
    path = tmp_path / "big.html"
    path.write_text(report_html([exp]), encoding="utf-8")
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector(".card[data-ready] canvas")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.wait_for_load_state()
    moved = [slide(page, "Clip at percentile", value) for value in (95, 90, 85)]
    print(f"{path.stat().st_size / 2**20:.0f} MiB, first paint {paint:.0f} ms, slider {max(moved):.0f} ms")
    assert paint < 2000 and max(moved) < 50
    assert page.locator(".card").count() == 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, tmp_path, scheme):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    opened(page, tmp_path, [explained(3)], labels=[0, 0, 2])
    page.wait_for_selector("canvas")
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    context.close()
    assert not found, [(v["id"], [n["html"] for n in v["nodes"][:3]]) for v in found]


# -- with the model behind it ---------------------------------------------------------------------------------


@pytest.fixture
def live(new_session, page):
    """Open a session's page."""
    servers = []

    def start(**kwargs):
        servers.append(serve(lambda: new_session(**kwargs)))
        page.goto(servers[-1].url)
        page.wait_for_selector(".card[data-ready]")
        return page

    yield start
    for server in servers:
        server.stop()


def test_a_page_is_explained_by_the_chosen_method(live):
    page = live(n=3)
    assert page.locator("canvas").count() == 0 and "choose a method" in page.locator(".row").first.inner_text()
    option(page, "Method", "saliency")
    page.get_by_text("Explain this page").click()
    expect(page.locator("canvas")).to_have_count(3)
    assert page.locator("figcaption strong").nth(1).inner_text() == "Saliency"


def test_a_click_on_a_class_explains_it(live):
    page = live(n=1)
    page.get_by_role("button", name="green").click()
    page.wait_for_selector("canvas")
    assert "green" in page.locator(".panel dl").first.inner_text()


def test_an_error_of_the_model_is_shown_in_the_page(live):
    page = live(n=1, model=Broken())
    page.get_by_text("Explain this page").click()
    page.wait_for_selector(".method .failed:not([hidden])")
    assert "the third layer has no GPU" in page.inner_text(".method .failed")


@pytest.mark.slow
def test_a_session_of_five_hundred_samples_is_there_at_once(live):
    """The page holds what is seen: of twenty times as many samples not a tenth more elements."""
    elements = "document.querySelectorAll('*').length"
    few = live(n=25).evaluate(elements)
    page = live(n=500)
    assert page.evaluate(elements) < 1.1 * few
    page.get_by_text("Explain this page").click()
    expect(page.locator("canvas")).to_have_count(12)
    print([f"slider {slide(page, 'Clip at percentile', value):.0f} ms" for value in (95, 90)])
    expect(page.locator("canvas")).to_have_count(12)


def test_curves_of_a_live_map_are_asked_for(live):
    page = live(n=1)
    page.get_by_label("With curves").check()
    page.get_by_text("Explain this page").click()
    page.wait_for_selector(".curves polyline")
    page.get_by_label("With curves").uncheck()
    page.get_by_role("button", name="Explain this sample").click()
    page.get_by_role("button", name="Insertion and deletion").click()
    expect(page.locator(".curves")).to_have_count(2)


def test_two_models_stand_above_each_other_with_their_methods_in_columns(live):
    page = live(n=1, model={"first": Squares(), "second": Squares()})
    for method in ("saliency", "input_x_gradient"):
        option(page, "Method", method)
        page.get_by_text("Explain this page").click()
        expect(page.get_by_text("Explain this page")).to_be_enabled()
    expect(page.locator("canvas")).to_have_count(4)
    assert page.locator(".group h3").all_inner_texts() == ["first", "second"]
    left = [box["x"] for box in (page.locator("canvas").nth(k).bounding_box() for k in range(4))]
    assert left[0] == left[2] < left[1] == left[3]


def test_two_pages_do_not_see_each_other(live, browser):
    page = live(n=1)
    page.get_by_text("Explain this page").click()
    page.wait_for_selector("canvas")
    context = browser.new_context()
    other = context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".card[data-ready]")
    assert other.locator("canvas").count() == 0
    context.close()


def test_a_live_session_can_be_saved_as_one_file(live, page, tmp_path):
    live(n=2)
    page.get_by_text("Explain this page").click()
    expect(page.locator("canvas")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_text("Save as one file").click()
    download.value.save_as(tmp_path / "saved.html")
    page.goto((tmp_path / "saved.html").as_uri())
    expect(page.locator("canvas")).to_have_count(2)
    assert page.get_by_text("Explain this page").count() == 0


def test_controls_are_folded_away_until_they_are_wanted(browser, new_session, tmp_path) -> None:
    path = tmp_path / "page.html"
    path.write_text(new_session().to_html(), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    expect(page.get_by_label("Search")).to_be_visible()
    assert page.locator("details.fold").count() == 2 and page.locator("details.fold[open]").count() == 0
    expect(page.get_by_label("Opacity")).to_be_hidden()
    page.get_by_text("Looks").click()
    expect(page.get_by_label("Opacity")).to_be_visible()
    context.close()
