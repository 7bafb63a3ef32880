/**
 * Where the numeric oracles lie: the folder that holds `goldens/` and `goldens-fusion/`, from EDLORA_GOLDENS,
 * by default `fixtures/`. Cases are read from the JSON indices beside the tensors, never from constants.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../src/package-root.ts';

const shipped = path.join(packageRoot(), 'fixtures');
const root = path.resolve(process.env.EDLORA_GOLDENS ?? shipped);

/**
 * Absolute path inside the goldens, e.g. `goldenPath('goldens/formats/formats.json')`. Of a set without a whole layout
 * (`goldens`, `goldens-fusion`, `goldens-families`) the shipped one is taken.
 */
export function goldenPath(...parts: string[]): string {
  const [layout] = path.join(...parts).split(path.sep);
  return path.join(existsSync(path.join(root, layout!)) ? root : shipped, ...parts);
}

/** Folder of the families' goldens: a set may be of these alone. */
export function familiesPath(...parts: string[]): string {
  const alone = ['sdxl', 'sd2'].some((name) => existsSync(path.join(root, name, 'text.json')));
  return alone ? path.join(root, ...parts) : goldenPath('goldens-families', ...parts);
}

/** Whether a set has this file or folder; some parts are not in every set. */
export function hasGolden(...parts: string[]): boolean {
  return existsSync(goldenPath(...parts));
}

/** The miniature as one file in the original names: safetensors or a Lightning checkpoint, as the set has it. */
export function goldenSingleFile(): string {
  const names = ['single_file.safetensors', 'single_file.ckpt'];
  return goldenPath(
    'goldens/tiny-random',
    names.find((name) => hasGolden('goldens/tiny-random', name)) ?? names[0]!,
  );
}

/** A parsed JSON index. The caller names the shape it relies on. */
export function goldenJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(goldenPath(...parts), 'utf8')) as T;
}
