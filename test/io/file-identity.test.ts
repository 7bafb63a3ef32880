/** A file that is not what it was when it was opened is noticed at the next read, whatever was done to it. */
import {
  appendFileSync,
  chmodSync,
  linkSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { checkUnchanged, identify } from '../../src/io/file-identity.ts';

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-identity-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(async () => {
  file = path.join(folder, 'w.safetensors');
  await writeSafetensors(file, [float32Tensor('w', [4], Float32Array.of(1, 2, 3, 4))]);
  utimesSync(file, 1_700_000_000, 1_700_000_000);
});

const changes: [string, () => void, RegExp][] = [
  [
    'replaced by one of the same size and time',
    () => {
      const other = `${file}.other`;
      writeFileSync(other, readFileSync(file));
      utimesSync(other, 1_700_000_000, 1_700_000_000);
      renameSync(other, file);
    },
    /another file has taken its name/,
  ],
  ['written over in place', () => writeFileSync(file, readFileSync(file)), /written to at 2/],
  ['cut', () => truncateSync(file, 90), /\d+ bytes then, 90 now/],
  ['appended to', () => appendFileSync(file, 'x'), /\d+ bytes then, \d+ now/],
];

describe('a file', () => {
  it.each(changes)('that was %s is refused by a check and by the next read', async (_, change, message) => {
    const opened = identify(file);
    const { tensors } = await openTensorFile(file);
    expect([...readFloat32(tensors.get('w')!)]).toEqual([1, 2, 3, 4]);
    checkUnchanged([opened]);
    change();
    expect(() => checkUnchanged([opened])).toThrow(FormatError);
    expect(() => checkUnchanged([opened])).toThrow(message);
    expect(() => readFloat32(tensors.get('w')!)).toThrow(message);
    // Opened anew, it is another file.
    checkUnchanged([identify(file)]);
  });

  it('that is gone is named', () => {
    const opened = identify(file);
    rmSync(file);
    expect(() => checkUnchanged([opened])).toThrow(`${file}: expected the file as it was`);
  });

  it('whose mode or names changed is the same', () => {
    const opened = identify(file);
    chmodSync(file, 0o600);
    linkSync(file, `${file}.link`);
    checkUnchanged([opened]);
  });
});
