/** Settings from a YAML or JSON file: ours, or Mix-of-Show's option files. */

import path from 'node:path';
import { FormatError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { MAX_YAML_LENGTH, parseYaml } from '../formats/strict-yaml.ts';
import { readTextFile } from '../io/read-small-file.ts';
import { nearestName } from '../nearest-name.ts';
import { isMixOfShow, readMixOfShow, type TrainingFile } from './mix-of-show-options.ts';
import { type TrainingInput, trainingSchema } from './options.ts';

/** As many as `parseYaml` takes, in UTF-8. */
const MAX_BYTES = 4 * MAX_YAML_LENGTH;

/** What a person reads at once. */
const MAX_PROBLEMS = 20;

/** Settings that name files; they are relative to the file they stand in. */
const PATHS = ['data', 'captionFolder', 'classData'] as const;

/**
 * Read a settings file. Besides the settings it may name the base model as `base`.
 * @throws {FormatError} naming each wrong or unknown key
 */
export async function readTrainingFile(file: string): Promise<TrainingFile> {
  // Their files tag numbers as !!float, which YAML knows.
  const { value } = parseYaml(await readTextFile(file, MAX_BYTES, 'a settings file'), file);
  if (isMixOfShow(value)) {
    const theirs = await readMixOfShow(value, file);
    checkSettings(theirs.settings, file);
    return theirs;
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new FormatError(file, 'expected settings by name, e.g. "steps: 1000"');
  }
  const { base = null, ...given } = value as Record<string, unknown>;
  if (base !== null && typeof base !== 'string') throw new FormatError(file, 'base: expected a path');
  checkSettings(given, file);
  const folder = path.dirname(path.resolve(file));
  const settings = { ...given } as Partial<TrainingInput>;
  for (const name of PATHS) {
    const location = settings[name];
    if (location !== undefined && location !== '') settings[name] = path.resolve(folder, location);
  }
  if (settings.masks !== undefined && settings.masks !== 'auto' && settings.masks !== 'none') {
    settings.masks = path.resolve(folder, settings.masks);
  }
  return { settings, base: base === null ? null : path.resolve(folder, base), notes: [] };
}

/** @throws {FormatError} naming each wrong or unknown key */
function checkSettings(given: unknown, file: string): void {
  const parsed = safeParse(trainingSchema.partial(), given);
  if (!parsed.success) {
    const problems = parsed.error.issues.flatMap((issue) =>
      issue.code === 'unrecognized_keys'
        ? issue.keys.map(unknownKey)
        : [`${excerpt(issue.path.join('.'))}: ${issue.message}`],
    );
    const shown = problems.slice(0, MAX_PROBLEMS);
    const more = problems.length > shown.length ? `; and ${problems.length - shown.length} more` : '';
    throw new FormatError(file, shown.join('; ') + more);
  }
}

function unknownKey(key: string): string {
  const nearest = nearestName(key, Object.keys(trainingSchema.shape));
  return `unknown key "${excerpt(key)}"${nearest === null ? '' : `; did you mean "${nearest}"?`}`;
}
