/** Scene files (YAML or JSON), checked field by field; messages point at the line. */

import path from 'node:path';
import type { z } from 'zod';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { MAX_YAML_LENGTH, parseYaml } from '../formats/strict-yaml.ts';
import { readTextFile } from '../io/read-small-file.ts';
import { nearestName } from '../nearest-name.ts';
import { type Scene, sceneSchema } from './scene-schema.ts';

/** As many as `parseYaml` takes, in UTF-8. */
const MAX_BYTES = 4 * MAX_YAML_LENGTH;

/**
 * Read a scene file.
 * @throws {FormatError} if it cannot be read or parsed, with the line
 * @throws {UsageError} on unknown keys and wrong values, with the line and, for a mistyped key, the nearest known one
 */
export async function readSceneFile(file: string): Promise<Scene> {
  return parseSceneText(await readTextFile(file, MAX_BYTES, 'a scene file'), path.relative('', file) || file);
}

/** @param label names the text in messages. @throws as `readSceneFile` */
export function parseSceneText(text: string, label: string): Scene {
  const { value, lineOf, lineOfKey } = parseYaml(text, label);
  return checkScene(value ?? {}, (at, name, key) => {
    const line = key === undefined ? lineOf(at) : lineOfKey(at, key);
    return `${label}:${line}${name === '' ? '' : `: ${name}`}`;
  });
}

/**
 * Check a value against the scene's schema.
 * @param where what messages begin with, for a path in the value and its name; `key` is an unknown one inside it.
 *   Default: `scene.` and the name
 * @throws {UsageError} about the first mistake
 */
export function checkScene(
  value: unknown,
  where: (at: readonly PropertyKey[], name: string, key?: string) => string = (_, name) =>
    name === '' ? 'scene' : `scene.${name}`,
): Scene {
  const result = safeParse(sceneSchema, value);
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
      `${where(at, name, key)}: unknown key "${excerpt(key)}"${nearest === null ? '' : `; did you mean "${nearest}"?`}`,
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
