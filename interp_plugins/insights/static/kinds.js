// What the script of each kind of record does; page.py puts in the functions of the rooms that draw them.

/**
 * @import { Remark } from "./wire.js"
 *
 * What a person said of a record's items.
 * @typedef {{get: (item: number) => (Remark | undefined), set: (item: number, remark: Remark) => void}} Kept
 *
 * @typedef {(root: ShadowRoot, facts: any, kept: Kept) => void} Behaviour
 */

export const BEHAVIOURS = /** @type {Record<string, Behaviour>} */ ({});
