/** Text of a user or a file in a message: as much as tells which one it is. */

/** Longer texts are cut. */
const MAX_SHOWN = 120;

/** The text, or its beginning and an ellipsis. */
export function excerpt(text: string, length = MAX_SHOWN): string {
  if (text.length <= length) return text;
  const cut = text.slice(0, length - 1);
  // Half of a surrogate pair is no character.
  return `${/[\uD800-\uDBFF]$/.test(cut) ? cut.slice(0, -1) : cut}…`;
}

/** Any value as JSON, cut alike. */
export function jsonExcerpt(value: unknown, length = MAX_SHOWN): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') return JSON.stringify(excerpt(value, length));
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  return String(value);
}

/** How long a text is that may be none: a list in its place has things in it that no text can be made of. */
export function lengthExcerpt(value: unknown): string {
  return typeof value === 'string' ? String(value.length) : jsonExcerpt(value);
}
