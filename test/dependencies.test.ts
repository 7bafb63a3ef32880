/** What is installed with the package: licences that its users can live with, all of them named in docs/development.md. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { packageRoot } from '../src/package-root.ts';

const read = (name: string): string => readFileSync(path.join(packageRoot(), name), 'utf8');
const { packages } = JSON.parse(read('package-lock.json')) as {
  packages: Record<string, { license?: string; dev?: boolean; engines?: { node?: string } }>;
};
/** What a user installs; of packages for one platform each, all platforms. */
const installed = Object.entries(packages).filter(([place, { dev }]) => place !== '' && dev !== true);

const FREE = new Set([
  'MIT',
  'ISC',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  '0BSD',
  'Unlicense',
  'CC0-1.0',
]);

it('every dependency has a free licence; libvips alone is under the LGPL', () => {
  expect(installed.length).toBeGreaterThan(50);
  for (const [place, { license = 'none' }] of installed) {
    const strange = license
      .replace(/[()]/g, '')
      .split(/ AND | OR /)
      .filter((name) => !FREE.has(name));
    const isLibvips = /^node_modules\/@img\/sharp-(libvips-|win32-|wasm32)/.test(place);
    expect(strange, place).toEqual(isLibvips ? ['LGPL-3.0-or-later'] : []);
  }
});

it('the documents name every licence, and the libraries under the LGPL', () => {
  const text = read('docs/development.md');
  for (const [, { license = '' }] of installed) {
    for (const name of license.replace(/[()]/g, '').split(/ AND | OR /)) expect(text).toContain(name);
  }
  expect(text).toContain('libvips');
});
