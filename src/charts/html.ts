/** Markup as values: text is escaped where it enters, so that no name or prompt can become markup. */

import { visibleLines } from '../visible.ts';

/** Markup that is safe to insert as it is. Made by `html` and by `markup`. */
export interface Html {
  readonly html: string;
}

type Insertable = Html | string | number | null | readonly Insertable[];

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text for element content and quoted attributes; what would steer the reader’s eye unseen becomes visible. */
export function escapeHtml(text: string): string {
  return visibleLines(text).replace(/[&<>"']/g, (mark) => ENTITIES[mark]!);
}

/** Markup from a trusted source: our own charts, already as a string. */
export function markup(trusted: string): Html {
  return { html: trusted };
}

/** Template tag: strings and numbers are escaped, `Html` and lists of it inserted, null is nothing. */
export function html(parts: TemplateStringsArray, ...values: readonly Insertable[]): Html {
  return {
    html: parts.map((part, i) => part + (i < values.length ? insert(values[i]!) : '')).join(''),
  };
}

function insert(value: Insertable): string {
  if (value === null) return '';
  if (typeof value === 'string' || typeof value === 'number') return escapeHtml(String(value));
  return Array.isArray(value) ? value.map(insert).join('') : (value as Html).html;
}

/** A file's bytes as a `data:` address, for pictures inside a page. */
export function dataUri(bytes: Uint8Array, mime: string): string {
  return `data:${mime};base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}`;
}
