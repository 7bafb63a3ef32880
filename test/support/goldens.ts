/**
 * Where the numeric oracles lie: the folder that holds `goldens/` and `goldens-fusion/`, from EDLORA_GOLDENS,
 * by default `fixtures/`. Cases are read from the JSON indices beside the tensors, never from constants.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../src/package-root.ts';

const root = path.resolve(process.env.EDLORA_GOLDENS ?? path.join(packageRoot(), 'fixtures'));

/** Absolute path inside the goldens, e.g. `goldenPath('goldens/formats/formats.json')`. */
export function goldenPath(...parts: string[]): string {
  return path.join(root, ...parts);
}

/** A parsed JSON index. The caller names the shape it relies on. */
export function goldenJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(goldenPath(...parts), 'utf8')) as T;
}
