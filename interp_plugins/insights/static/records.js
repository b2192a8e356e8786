// Results beside the samples: a tab for each, which shows the page that its own code makes.

import { h } from "./elements.js";
import { BEHAVIOURS } from "./kinds.js";
import { reason } from "./wire.js";

/** @import { Catalogue, Host, Notes, Remark } from "./wire.js" */

export class Records {
  /**
   * @param {Catalogue} catalogue
   * @param {Host} host
   * @param {HTMLElement} samples what is shown where no record is
   * @param {() => Notes} notes as they are now
   * @param {(key: string, remark: Remark) => void} remember
   */
  constructor({ records, samples: { length } }, host, samples, notes, remember) {
    this.samples = samples;
    this.entries = records;
    this.host = host;
    this.notes = notes;
    this.remember = remember;
    this.shown = -1; // the record that is shown; -1: the samples
    this.views = /** @type {Map<number, HTMLElement>} */ (new Map());
    this.place = h("div", { class: "record", role: "tabpanel" });
    const tab = (/** @type {string} */ text, /** @type {number} */ k) => h("button",
      { type: "button", role: "tab", "data-record": String(k), onclick: () => this.show(k) }, text);
    this.tabs = h("div", { class: "bar tabs", role: "tablist", "aria-label": "What is shown" },
      length || !records.length ? tab("Samples", -1) : null, records.map((one, k) => tab(one.tab, k)));
    this.tabs.hidden = !records.length;
    this.show(length || !records.length ? -1 : 0);
  }

  /** Show a record, or the samples. @param {number} k */
  async show(k) {
    this.shown = k;
    this.samples.hidden = k >= 0;
    this.place.hidden = k < 0;
    for (const tab of /** @type {HTMLElement[]} */ ([...this.tabs.children]))
      tab.setAttribute("aria-selected", String(Number(tab.dataset.record) === k));
    if (k < 0) return;
    const view = this.views.get(k) ?? this.draw(k);
    this.views.set(k, view);
    this.place.replaceChildren(view);
  }

  /** Draw anew what holds notes; they have been loaded. */
  redraw() {
    this.views.clear();
    if (this.shown >= 0) this.show(this.shown);
  }

  /** @param {number} k */
  draw(k) {
    const view = h("div", {}, h("p", { class: "status" }, "Loading …"));
    this.host.ask("record", { record: k }).then(({ title, lead, body, style, facts }) => {
      const root = view.attachShadow({ mode: "open" });
      root.append(h("style", {}, style), h("h2", {}, title), h("p", { class: "lead" }, lead));
      const page = h("div", {});
      page.innerHTML = body; // made and escaped in Python; the page's policy lets nothing in it run
      root.append(page);
      BEHAVIOURS[this.entries[k].kind]?.(root, facts, {
        get: (item) => this.notes()[`${k}/${item}`],
        set: (item, remark) => this.remember(`${k}/${item}`, remark),
      });
      view.dataset.ready = "yes";
      const first = /** @type {?HTMLElement} */ (page.querySelector("article[tabindex]")); // keys
      if (this.shown === k) first?.focus({ preventScroll: true });
    }).catch((error) => {
      this.views.delete(k);
      (view.shadowRoot ?? view).replaceChildren(h("p", { class: "failed", role: "alert" }, reason(error)));
    });
    return view;
  }
}
