import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { readManifest } from '../../src/concepts/manifest.ts';
import { EdloraError, FormatError, UsageError } from '../../src/errors.ts';
import { nearestName } from '../../src/nearest-name.ts';
import { scratch } from './support.ts';

/** A list file beside an empty `a.pth` and `b.pth`. */
function list(name: string, content: unknown): string {
  const file = scratch(name);
  for (const concept of ['a.pth', 'b.pth']) writeFileSync(path.join(path.dirname(file), concept), '');
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

describe('readManifest', () => {
  it("reads Mix-of-Show's list", async () => {
    const world = path.join(import.meta.dirname, '../../fixtures/tiny-world/concepts');
    const specs = await readManifest(path.join(world, 'concepts.json'));
    expect(specs[0]).toEqual({
      path: path.join(world, 'edlora_smiley.pth'),
      unetStrength: 1,
      textEncoderStrength: 1,
      conceptName: '<smiley1> <smiley2>',
    });
    const file = list('l.json', [{ lora_path: 'a.pth', unet_alpha: 0.5, text_encoder_alpha: -1 }]);
    expect(await readManifest(file)).toEqual([
      {
        path: path.join(path.dirname(file), 'a.pth'),
        unetStrength: 0.5,
        textEncoderStrength: -1,
        conceptName: null,
      },
    ]);
  });

  it('reads our own, as YAML and JSON', async () => {
    const yaml = `
concepts:
  - a.pth
  - path: b.pth
    unetStrength: 0.5
    name: <b1> <b2>
  - { path: b.pth, strength: 0.8 }
`;
    const specs = await readManifest(list('l.yaml', yaml));
    expect(specs.map(({ path: _, ...rest }) => rest)).toEqual([
      { unetStrength: 1, textEncoderStrength: 1, conceptName: null },
      { unetStrength: 0.5, textEncoderStrength: 1, conceptName: '<b1> <b2>' },
      { unetStrength: 0.8, textEncoderStrength: 0.8, conceptName: null },
    ]);
    expect(await readManifest(list('l.json', { concepts: ['a.pth'] }))).toHaveLength(1);
  });

  it('looks beside the list first, then in the working directory', async () => {
    const specs = await readManifest(list('l.json', { concepts: ['package.json'] }));
    expect(specs[0]!.path).toBe(path.resolve('package.json'));
  });

  it.each<[string, unknown, RegExp]>([
    [
      'an unknown key',
      [{ lora_path: 'a.pth', unet_alfa: 1 }],
      /\[0\]: unknown key "unet_alfa"; did you mean "unet_alpha"/,
    ],
    [
      'an unknown key of ours',
      { concepts: [{ path: 'a.pth', strenght: 1 }] },
      /concepts\[0\]: .*"strength"\?/,
    ],
    ['an unknown key on top', { concept: ['a.pth'] }, /concept/],
    ['a far-off key', { concepts: ['a.pth'], zzzzzzzz: 1 }, /known are concepts/],
    ['a missing path', [{ unet_alpha: 1 }], /\[0\]\.lora_path: expected text/],
    ['text for a number', [{ lora_path: 'a.pth', unet_alpha: '1' }], /\[0\]\.unet_alpha: expected a number/],
    ['infinity', 'concepts: [{path: a.pth, strength: .inf}]', /concepts\[0\]\.strength: expected a number/],
    [
      'two strengths',
      { concepts: [{ path: 'a.pth', strength: 1, unetStrength: 1 }] },
      /expected either "strength"/,
    ],
    ['an empty list', [], /at least one concept/],
    ['an empty list of ours', { concepts: [] }, /concepts/],
    ['a missing file', { concepts: ['c.pth'] }, /concept "c\.pth" not found, looked for/],
    ['text', 'hello', /expected object/],
  ])('refuses %s', async (_, content, message) => {
    const reading = readManifest(list('l.json', content));
    await expect(reading).rejects.toThrow(UsageError);
    await expect(reading).rejects.toThrow(message);
  });

  it('refuses what cannot be parsed', async () => {
    for (const content of [
      '{"concepts": [',
      'a: &x [1]\nb: *x\nc: [*x, *x]',
      'concepts: [a.pth]\nconcepts: [b.pth]',
    ]) {
      await expect(readManifest(list('l.yaml', content))).rejects.toThrow(EdloraError);
    }
    await expect(readManifest(scratch('none.json'))).rejects.toThrow(FormatError);
    await expect(readManifest(path.dirname(list('l.json', [])))).rejects.toThrow(/got a folder/);
  });
});

describe('nearestName', () => {
  it('finds the name meant, or none', () => {
    const known = ['strength', 'path', 'name'];
    expect(nearestName('strenght', known)).toBe('strength');
    expect(nearestName('Path', known)).toBe('path');
    expect(nearestName('frobnicate', known)).toBeNull();
  });
});

it('refuses a value whose length is no number, and makes no text of it', async () => {
  const hostile = { length: [{ toString: 1, valueOf: 1 }] };
  for (const [name, content] of Object.entries({
    'named.json': { concepts: [{ path: 'a.pth', name: hostile }] },
    'path.json': { concepts: [{ path: hostile }] },
    'entry.json': { concepts: [hostile] },
    'mix.json': [{ lora_path: hostile, unet_alpha: 1, text_encoder_alpha: 1 }],
  })) {
    await expect(readManifest(list(name, content)), name).rejects.toThrow(EdloraError);
  }
});
