/**
 * Changing one field of a JSON text and nothing else. Parsing and printing again would turn Python's 1.0 into 1 and
 * round its long integers, and strict readers refuse that.
 */
import { UsageError } from '../errors.ts';

/**
 * Set a top-level field to `value`; an existing one is replaced where it stands, a new one is put first.
 * @param text a JSON object
 * @throws {UsageError} if the text is no JSON object
 */
export function setJsonField(text: string, key: string, value: unknown): string {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new UsageError(`JSON: expected an object to set "${key}" in, got malformed text`, { cause });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new UsageError(`JSON: expected an object to set "${key}" in`);
  }
  const printed = JSON.stringify(value, null, 2).replaceAll('\n', '\n  ');
  const place = fieldValue(text, key);
  if (place !== null) return text.slice(0, place.begin) + printed + text.slice(place.end);
  const open = text.indexOf('{') + 1;
  const comma = Object.keys(parsed).length > 0 ? ',' : '\n';
  return `${text.slice(0, open)}\n  ${JSON.stringify(key)}: ${printed}${comma}${text.slice(open)}`;
}

/** Where the value of a top-level field stands in a valid JSON object's text. */
function fieldValue(text: string, key: string): { begin: number; end: number } | null {
  let depth = 0;
  let begin = -1;
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!;
    if (char === '"') {
      const end = stringEnd(text, i);
      const colon = afterSpace(text, end);
      if (depth === 1 && begin < 0 && text[colon] === ':' && JSON.parse(text.slice(i, end)) === key) {
        begin = afterSpace(text, colon + 1);
        i = begin - 1;
      } else {
        i = end - 1;
      }
      continue;
    }
    if (begin >= 0 && depth === 1 && i > begin && (char === ',' || char === '}')) {
      return { begin, end: begin + text.slice(begin, i).trimEnd().length };
    }
    if (char === '{' || char === '[') depth++;
    if (char === '}' || char === ']') depth--;
  }
  return null;
}

/** Index of the first character at or after `start` that is no JSON white space. */
function afterSpace(text: string, start: number): number {
  let i = start;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\r' || text[i] === '\t') i++;
  return i;
}

/** Index after the closing quote of the string that opens at `start`. */
function stringEnd(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    if (text[i] === '\\') i++;
    else if (text[i] === '"') return i + 1;
  }
  return text.length;
}
