/** Where the package lies: shipped models and lists are found from here, from source and from the build alike. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the package's package.json. */
export function packageRoot(): string {
  return manifestFolder(import.meta.dirname);
}

function manifestFolder(start: string): string {
  let folder = start;
  while (!existsSync(path.join(folder, 'package.json'))) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error(`internal: package.json not found above ${start}`);
    folder = parent;
  }
  return folder;
}

/** The miniature Stable Diffusion that ships with the package: a diffusers folder. */
export function defaultBase(): string {
  return path.join(packageRoot(), 'fixtures', 'tiny-world', 'model');
}

/** The package's own version. */
export function toolVersion(): string {
  return versionIn(packageRoot());
}

/** The version of a package that this one depends on. */
export function packageVersion(name: string): string {
  // The address of a module is no path: blanks, letters and drives are written otherwise in it.
  return versionIn(manifestFolder(path.dirname(fileURLToPath(import.meta.resolve(name)))));
}

function versionIn(folder: string): string {
  return (JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as { version: string }).version;
}
