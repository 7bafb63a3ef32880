/** Where the package lies: shipped models and lists are found from here, from source and from the build alike. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** The folder of the package's package.json. */
export function packageRoot(): string {
  let folder = import.meta.dirname;
  while (!existsSync(path.join(folder, 'package.json'))) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error('internal: package.json not found above the library');
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
  const manifest = JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as {
    version: string;
  };
  return manifest.version;
}
