/** Scene files (YAML or JSON), checked field by field; messages point at the line. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import type { z } from 'zod';
import { nearestName } from '../concepts/nearest-name.ts';
import { FormatError, UsageError } from '../errors.ts';
import { type Scene, sceneSchema } from './scene.ts';

const MAX_BYTES = 4 << 20;

/**
 * Read a scene file.
 * @throws {FormatError} if it cannot be read or parsed, with the line
 * @throws {UsageError} on unknown keys and wrong values, with the line and, for a mistyped key, the nearest known one
 */
export async function readSceneFile(file: string): Promise<Scene> {
  const info = await stat(file).catch((cause: unknown) => {
    throw new FormatError(file, 'no such file', { cause });
  });
  if (!info.isFile()) throw new FormatError(file, 'expected a scene file, got a folder');
  if (info.size > MAX_BYTES) throw new FormatError(file, `expected a scene file, got ${info.size} bytes`);
  return parseSceneText(await readFile(file, 'utf8'), path.relative('', file) || file);
}

/** @param label names the text in messages. @throws as `readSceneFile` */
export function parseSceneText(text: string, label: string): Scene {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true });
  const lineAt = (offset: number): number => lines.linePos(offset).line;
  const [broken] = document.errors;
  if (broken !== undefined) {
    const reason = broken.message.split('\n')[0]!.replace(/ at line .*$/, '');
    throw new FormatError(`${label}:${lineAt(broken.pos[0])}`, `neither JSON nor YAML: ${reason}`);
  }
  let value: unknown;
  try {
    // No references: they could grow without bound.
    value = document.toJS({ maxAliasCount: 0 });
  } catch (cause) {
    throw new FormatError(label, 'references (&, *) are not accepted in scene files', { cause });
  }
  const lineOf = (at: readonly PropertyKey[]): number => {
    for (let depth = at.length; depth >= 0; depth--) {
      const node = depth === 0 ? document.contents : document.getIn(at.slice(0, depth), true);
      const range = (node as { range?: [number, number, number] } | null | undefined)?.range;
      if (range) return lineAt(range[0]);
    }
    return 1;
  };
  return checkScene(value ?? {}, (at, name, key) => {
    const line = (key === undefined ? null : keyLine(text, lines, key)) ?? lineOf(at);
    return `${label}:${line}${name === '' ? '' : `: ${name}`}`;
  });
}

/** Line of a key, for keys that are not part of the schema and so have no value to point at. */
function keyLine(text: string, lines: LineCounter, key: string): number | null {
  const escaped = key.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
  const match = new RegExp(`^[\\s{,-]*["']?${escaped}["']?\\s*:`, 'm').exec(text);
  return match === null ? null : lines.linePos(match.index + match[0].length - 1).line;
}

/**
 * Check a value against the scene's schema.
 * @param where what messages begin with, for a path in the value and its name; `key` is an unknown one inside it
 * @throws {UsageError} about the first mistake
 */
export function checkScene(
  value: unknown,
  where: (at: readonly PropertyKey[], name: string, key?: string) => string,
): Scene {
  const result = sceneSchema.safeParse(value);
  if (result.success) return result.data;
  const { issue, at } = innermost(result.error.issues[0]!, []);
  const name = at
    .map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))
    .join('')
    .replace(/^\./, '');
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!;
    const nearest = at.length === 0 ? nearestName(key, Object.keys(sceneSchema.shape)) : null;
    throw new UsageError(
      `${where(at, name, key)}: unknown key "${key}"${nearest === null ? '' : `; did you mean "${nearest}"?`}`,
    );
  }
  throw new UsageError(`${where(at, name)}: ${issue.message}`);
}

/** Of a value that may have several forms: the mistake in the form that it comes nearest to. */
function innermost(
  issue: z.core.$ZodIssue,
  outer: readonly PropertyKey[],
): { issue: z.core.$ZodIssue; at: readonly PropertyKey[] } {
  const at = [...outer, ...issue.path];
  if (issue.code !== 'invalid_union') return { issue, at };
  const inner = issue.errors.flatMap((issues) => (issues[0] === undefined ? [] : [innermost(issues[0], at)]));
  const depth = (entry: (typeof inner)[number]): number =>
    entry.at.length + (entry.issue.code === 'invalid_type' ? 0 : 0.5);
  return inner.sort((a, b) => depth(b) - depth(a))[0] ?? { issue, at };
}
