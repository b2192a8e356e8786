// What comes over the wire (wire.py sends it) and how it is asked for: the records' types, bytes as numbers, requests.

/**
 * A map's elements as bytes (base64 text) beside their limit: value = sign(byte) * (byte / 127)^2 * limit.
 * @typedef {{shape: number[], limit: number, data: string, signed: boolean}} Quantised
 *
 * Insertion and deletion: the score against the share of the input that was removed or put in.
 * @typedef {{of: string, baseline: string, fraction: number[], deletion: number[], insertion: number[],
 *   deletionArea: number, insertionArea: number}} Curves
 *
 * What stands beside a map, however it is drawn. `model` is the model's number, `share` the part of all inputs' sum.
 * @typedef {{key: number, model: number, code: string, curves: ?(Curves | Failure), share: ?number,
 *   method: string, title: string, params: string, target: Plain, targetText: string,
 *   probability: ?number, score: ?number, baselineScore: ?number, completenessText: ?string, baseline: ?string,
 *   layer: ?string, seconds: ?number, passes?: ?number}} Facts
 *
 * @typedef {Facts & Quantised & {view: "heatmap"}} HeatmapRecord
 * @typedef {Facts & Quantised & {view: "tokens", tokens: string[]}} TokensRecord
 * @typedef {Facts & Quantised & {view: "bars", names: string[], texts: string[], hidden: number}} BarsRecord
 * @typedef {Facts & {view: "picture", src: string}} PictureRecord
 * @typedef {Facts & {view: "error", error: string}} ErrorRecord
 * @typedef {HeatmapRecord | TokensRecord | BarsRecord | PictureRecord | ErrorRecord} MapRecord
 *
 * @typedef {{view: "image", src: string, wide: boolean} | {view: "tokens", tokens: string[]}
 *   | {view: "values", names: string[], texts: string[]} | {view: "none"} | {view: "error", error: string}} InputRecord
 */

/**
 * What a model says of a sample: one entry of `models` per model.
 * @typedef {{predictions: ?number[], predictionText: ?string, probability: ?number, correct: ?boolean, loss: ?number,
 *   top: {index: number, label: string, p: ?number}[]}} Outcome
 * @typedef {{name: string, labels: ?number[], labelText: ?string, completenessError: ?number, words: string,
 *   models: Outcome[]}} Sample
 *
 * The samples as one run (an epoch of a training) left them.
 * @typedef {{name: string, samples: Sample[]}} Run
 *
 * A class, a target or a default as JSON.
 * @typedef {string | number | boolean | null} Plain
 *
 * What a person has written about a sample, or an item of a record; notes go by the sample's number, or "record/item".
 * @typedef {{tags: string[], note: string}} Remark
 * @typedef {Record<string, Remark>} Notes
 *
 * A result beside the samples, and its page: `body` is HTML, `style` CSS, `facts` what its kind's script needs.
 * @typedef {{kind: string, tab: string}} Entry
 * @typedef {{title: string, lead: string, body: string, style: string, facts: any}} RecordPage
 *
 * A method to choose, with a control per parameter.
 * @typedef {{name: string, type: "int" | "float" | "bool" | "text", default: Plain, min: Plain, max: Plain}} Parameter
 * @typedef {{name: string, title: string, params: Parameter[]}} Method
 *
 * All that is known before a map is asked for. `live`: there is a model to ask; `saves`: the host writes files;
 * `palettes`: 256 RGB bytes each as base64 text, by name; `run`: what the first run is called.
 * @typedef {{schema: number, title: string, live: boolean, saves: boolean, classes: ?string[],
 *   models: {name: string}[], methods: Method[], method: string, baselines: string[], samples: Sample[], notes: Notes,
 *   records: Entry[], run?: string, palettes: Record<"signed" | "unsigned", Record<string, string>>}} Catalogue
 */

/**
 * The host's half of anywidget's front-end convention.
 * @typedef {{get: (name: string) => any, set: (name: string, value: any) => void, save_changes: () => void,
 *   on: (event: string, listener: Listener) => void, send: (message: Request) => void}} Model
 *
 * @typedef {(message?: any) => void} Listener
 * @typedef {{id: number, type: string} & Record<string, any>} Request
 * @typedef {{error: string}} Failure
 * @typedef {{records: {sample: number, record: MapRecord}[], failures: ({sample: number} & Failure)[],
 *   cancelled: boolean}} Explained
 * @typedef {{name: string, type: string, data: string}} SavedFile
 *
 * What each type of request is answered with.
 * @typedef {{input: InputRecord, maps: MapRecord[], explain: Explained, curves: Curves, export: SavedFile,
 *   record: RecordPage}} Answers
 */

/** Bytes of base64 text. @param {string} text */
export function bytes(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

/** The text of something that was thrown. @param {unknown} error */
export function reason(error) {
  return error instanceof Error ? error.message : String(error);
}

/** A map's bytes, with their absolute values counted once for percentiles. */
export class Values {
  /** @param {Quantised} record */
  constructor(record) {
    this.data = new Int8Array(bytes(record.data).buffer);
    this.limit = record.limit;
    this.counts = new Uint32Array(129);
    for (const v of this.data) this.counts[Math.abs(v)]++;
  }

  /** The |byte| below which `percentile` % of the elements lie, at least 1. @param {number} percentile */
  clip(percentile) {
    let left = (percentile / 100) * this.data.length;
    for (let level = 0; level <= 128; level++) {
      left -= this.counts[level];
      if (left <= 0) return Math.max(level, 1);
    }
    return 127;
  }

  /** The value of element k. @param {number} k */
  at(k) {
    return Math.sign(this.data[k]) * (this.data[k] / 127) ** 2 * this.limit;
  }
}

/** Requests to whatever stands behind `model`; answers carry the request's id. */
export class Host {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    this.next = 1;
    this.waiting = new Map();
    this.kept = new Map();
    model.on("msg:custom", (message) => this.receive(message));
    this.hideStill(model.get("still"));
  }

  /** A saved notebook's view is not needed as long as somebody answers. @param {?string | undefined} name */
  hideStill(name) {
    const old = /** @type {?HTMLElement} */ (name ? document.querySelector(`[data-insights-still="${name}"]`) : null);
    if (old) old.hidden = true;
  }

  /** @param {any} message */
  receive(message) {
    const job = this.waiting.get(message.id);
    if (!job) return;
    if (message.type === "progress") {
      job.progress?.(message.done, message.total);
      return;
    }
    this.waiting.delete(message.id);
    if (message.type === "error") job.reject(new Error(message.error));
    else job.resolve(message.result);
  }

  /**
   * Send a request. The promise of its answer carries the request's id, by which it can be cancelled.
   * @template {keyof Answers} K
   * @param {K} type
   * @param {Record<string, any>} body
   * @param {(done: number, total: number) => void} [progress]
   * @returns {Promise<Answers[K]> & {id: number}}
   */
  ask(type, body, progress) {
    const id = this.next++;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject, progress }));
    this.model.send({ id, type, ...body });
    return Object.assign(answer, { id });
  }

  /**
   * Like `ask`, once for each sample and run.
   * @template {keyof Answers} K
   * @param {K} type
   * @param {{sample: number, run: number}} body
   * @returns {Promise<Answers[K]>}
   */
  once(type, { sample, run }) {
    const key = `${type} ${sample} ${run}`;
    let found = this.kept.get(key);
    if (!found) {
      found = this.ask(type, { sample, run });
      found.catch(() => this.kept.delete(key));
      this.kept.set(key, found);
    }
    return found;
  }

  /** Ask anew for what has changed of a sample. @param {keyof Answers} type @param {number} sample */
  forget(type, sample) {
    for (const key of [...this.kept.keys()]) if (key.startsWith(`${type} ${sample} `)) this.kept.delete(key);
  }

  /** Stop a request that is being worked on. @param {number} job */
  cancel(job) {
    this.model.send({ id: 0, type: "cancel", job });
  }
}
