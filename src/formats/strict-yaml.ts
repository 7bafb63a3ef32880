/**
 * YAML of files that others wrote (JSON is YAML too), with the lines of its values. References, tags of its own, keys
 * that are no text, equal keys and deep nesting are errors; time is linear in the text's length, which is bounded.
 */
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { FormatError } from '../errors.ts';
import { excerpt } from './excerpt.ts';
import { MAX_DEPTH } from './strict-json.ts';

/** The parser takes up to 6 µs a character: under a second. A scene of a hundred regions has 50 kB. */
export const MAX_YAML_LENGTH = 1 << 17;

export interface YamlText {
  readonly value: unknown;
  /** Line, from 1, of the value at a path, or of the nearest one around it. */
  lineOf(path: readonly PropertyKey[]): number;
  /** Line of a key of the mapping at a path. */
  lineOfKey(path: readonly PropertyKey[], key: string): number;
}

/**
 * Parse a YAML text; an empty one is `null`.
 * @param label names the text in messages, to which the line is added
 * @throws {FormatError} for what is no YAML, and for everything named above
 */
export function parseYaml(text: string, label: string): YamlText {
  if (text.length > MAX_YAML_LENGTH) {
    throw new FormatError(
      label,
      `expected YAML of at most ${MAX_YAML_LENGTH} characters, got ${text.length}`,
    );
  }
  const lines = new LineCounter();
  const document = withoutStackTraces(() =>
    parseDocument(text, {
      lineCounter: lines,
      // The parser compares each key with all before it; keys are checked below.
      uniqueKeys: false,
      // Excerpts for errors cost the length of the line each.
      prettyErrors: false,
      schema: 'core',
      resolveKnownTags: false,
      logLevel: 'error',
    }),
  );
  const refuse = (offset: number, message: string): never => {
    throw new FormatError(`${label}:${lines.linePos(offset).line}`, message);
  };
  const [broken = document.warnings[0]] = document.errors;
  if (broken !== undefined) {
    const reason = /call stack/.test(broken.message)
      ? `nested more than ${MAX_DEPTH} deep`
      : excerpt(broken.message, 120);
    refuse(broken.pos[0], `neither JSON nor YAML: ${reason}`);
  }

  const plain = (node: unknown, depth: number): unknown => {
    if (node === null || node === undefined) return null;
    const at = (node as Node).range?.[0] ?? 0;
    if (depth > MAX_DEPTH) refuse(at, `expected YAML nested at most ${MAX_DEPTH} deep, got more`);
    if (isAlias(node)) return refuse(at, 'references (&, *) are not accepted');
    if (isScalar(node)) return node.value;
    if (isSeq(node)) return node.items.map((item) => plain(item, depth + 1));
    if (!isMap(node)) return refuse(at, 'expected values, lists and mappings');
    const entries = new Map<string, unknown>();
    for (const { key, value } of node.items) {
      const place = (key as Node | null)?.range?.[0] ?? at;
      if (isAlias(key)) return refuse(place, 'references (&, *) are not accepted');
      if (!isScalar(key)) return refuse(place, 'expected text as key');
      const name = String(key.value);
      if (name === '__proto__') return refuse(place, 'the key "__proto__" is not accepted');
      if (entries.has(name)) return refuse(place, `the key "${excerpt(name)}" is there twice`);
      entries.set(name, plain(value, depth + 1));
    }
    return Object.fromEntries(entries);
  };
  const value = plain(document.contents, 0);

  const lineAt = (node: unknown): number | null => {
    const range = (node as Node | null | undefined)?.range;
    return range ? lines.linePos(range[0]).line : null;
  };
  const pairOf = (node: unknown, key: PropertyKey) =>
    isMap(node)
      ? node.items.find((pair) => isScalar(pair.key) && String(pair.key.value) === String(key))
      : undefined;
  /** The nodes from the top down to a path, as far as there are any. */
  const along = (path: readonly PropertyKey[]): unknown[] => {
    const nodes: unknown[] = [document.contents];
    for (const key of path) {
      const node = nodes.at(-1);
      nodes.push(isSeq(node) ? node.items[Number(key)] : pairOf(node, key)?.value);
    }
    return nodes;
  };
  const lineOf = (path: readonly PropertyKey[]): number =>
    along(path).reduceRight<number | null>((line, node) => line ?? lineAt(node), null) ?? 1;
  return {
    value,
    lineOf,
    lineOfKey: (path, key) => lineAt(pairOf(along(path).at(-1), key)?.key) ?? lineOf(path),
  };
}

/** There may be an error a character, and most of an error's cost is its trace. */
function withoutStackTraces<T>(work: () => T): T {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return work();
  } finally {
    Error.stackTraceLimit = limit;
  }
}
