/** The names that other programs accept, see fixtures/cases/interop/README.md. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

export interface InteropList {
  readonly program: string;
  readonly family: 'sd15' | 'sdxl';
  /** Groups that together make one change; `lora`: alternatives of up, down and mid. */
  readonly suffixes: {
    readonly lora: readonly (readonly string[])[];
    readonly [group: string]: unknown;
  };
  readonly layers: readonly (readonly [shape: readonly number[], ...names: string[]])[];
}

export const INTEROP_LISTS = ['comfyui', 'a1111', 'sd-scripts'].flatMap((program) =>
  ['sd15', 'sdxl'].map((family) => `${program}-${family}`),
);

export function interopList(name: string): InteropList {
  const file = fileURLToPath(new URL(`../../fixtures/cases/interop/${name}.json.gz`, import.meta.url));
  return JSON.parse(gunzipSync(readFileSync(file)).toString()) as InteropList;
}
