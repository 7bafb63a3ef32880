import { describe, expect, it } from 'vitest';
import { FormatError, UsageError } from '../../src/errors.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { parseSceneText, readSceneFile } from '../../src/sampling/scene-file.ts';

describe('scene files', () => {
  it('take YAML and JSON, short forms and long ones', () => {
    const scene = parseSceneText(
      `
fused: fused
prompt: two toys
regions:
  - a <smiley1> <smiley2> @ 0,0,0.5,1
  - prompt: a <bullseye1> <bullseye2>
    mask: masks/right.png
    feather: 4
loras: [a.safetensors, {path: b.safetensors, strength: 0.5}]
`,
      'scene.yaml',
    );
    const normal = normalScene(scene, (file) => `/scenes/${file}`);
    expect(normal.fused).toBe('/scenes/fused');
    expect(normal.regions.map(({ prompt }) => prompt)).toEqual([
      'a <smiley1> <smiley2>',
      'a <bullseye1> <bullseye2>',
    ]);
    expect(normal.regions[0]!.box).toEqual([0, 0, 0.5, 1]);
    expect(normal.regions[1]!.mask).toBe('/scenes/masks/right.png');
    expect(normal.loras).toEqual([
      { path: '/scenes/a.safetensors', unetStrength: 1, textEncoderStrength: 1 },
      { path: '/scenes/b.safetensors', unetStrength: 0.5, textEncoderStrength: 0.5 },
    ]);
    expect(parseSceneText('{"prompt": "x", "seed": 3}', 'x.json')).toEqual({ prompt: 'x', seed: 3 });
    // Written out, a scene is a scene again.
    expect(parseSceneText(JSON.stringify(normal), 'x.json').regions).toEqual(normal.regions);
  });

  it.each([
    ['prompt: a\nstepz: 3\n', 'scene.yaml:2: unknown key "stepz"; did you mean "steps"?'],
    ['prompt: a\nsteps: many\n', 'scene.yaml:2: steps: expected a whole number'],
    [
      'regions:\n  - prompt: a\n    box: [0, 0, 1]\n',
      'scene.yaml:3: regions[0].box: expected [left, top, right, bottom]',
    ],
    [
      'regions:\n  - prompt: a\n    box: [0, 0, 1, 1]\n  - prompt: b\n',
      'scene.yaml:4: regions[1]: expected exactly one of box, polygon and mask',
    ],
    [
      'guides:\n  - adapter: a\n    image: b\n    stength: 2\n',
      'scene.yaml:4: guides[0]: unknown key "stength"',
    ],
    ['isolate: 3\n', 'scene.yaml:1: isolate: expected 0 … 1'],
  ])('point at the line of a mistake', (text, message) => {
    expect(() => parseSceneText(text, 'scene.yaml')).toThrow(message);
    expect(() => parseSceneText(text, 'scene.yaml')).toThrow(UsageError);
  });

  it('refuse what is no YAML, and references', () => {
    expect(() => parseSceneText('prompt: "a\nb: [', 's.yaml')).toThrow(FormatError);
    expect(() => parseSceneText('a: &x [1]\nb: *x\n', 's.yaml')).toThrow(/references/);
  });

  it.each([
    ['width: 1e9', /width: expected 1 … 4096, got 1000000000/],
    ['width: 0', /width: expected 1 … 4096, got 0/],
    ['height: -8', /height: expected 1 … 4096, got -8/],
    ['height: 64.5', /height: expected a whole number/],
    ['steps: 1001', /steps: expected 1 … 1000, got 1001/],
    ['count: 1000000', /count: expected 1 … 10000/],
    ['batch: 65', /batch: expected 1 … 64/],
    ['guidance: .nan', /guidance: expected a number/],
    ['guidance: 1e309', /guidance: expected a number/],
    ['guidance: -101', /guidance: expected -100 … 100/],
    ['seed: 1e300', /seed: expected/],
    ['seed: 9007199254740991', /seed: expected -4503599627370496 … 4503599627370496/],
    ['isolate: 1.1', /isolate: expected 0 … 1, got 1.1/],
    ['clipSkip: 65', /clipSkip: expected 0 … 64/],
    ['concepts: [{ path: a.pth, strength: 1e6 }]', /strength: expected -100 … 100/],
    ['regions: [{ prompt: a, box: [0, 0, 1, 1], feather: -1 }]', /feather: expected 0 … 4096, got -1/],
    ['regions: [{ prompt: a, box: [0, 0, 1, 1], feather: 1e9 }]', /feather: expected 0 … 4096/],
    ['regions: [{ prompt: a, box: [0, 0, 1, 1], weight: 0 }]', /weight: expected 0.001 … 1000, got 0/],
    ['regions: [{ prompt: a, box: [0, 0, .inf, 1] }]', /expected a number/],
    [`regions: [${'"a @ 0,0,1,1",'.repeat(65)}]`, /regions: expected at most 64 entries, got 65/],
    [
      `regions: [{ prompt: a, polygon: [${'[0,0],'.repeat(1025)}] }]`,
      /polygon: expected at most 1024 entries, got 1025/,
    ],
    [`prompt: ${'x'.repeat(10_001)}`, /prompt: expected at most 10000 characters, got 10001/],
    ['init: { image: "a\\0b" }', /init.image: expected a path without NUL/],
    ['regions: automatic', /regions: expected a list, or auto/],
    ['constructor: 1', /unknown key "constructor"/],
  ])('refuses %s with its range', (text, message) => {
    expect(() => parseSceneText(text, 'scene.yaml')).toThrow(message);
    expect(() => parseSceneText(text, 'scene.yaml')).toThrow(UsageError);
  });

  it('holds short forms to the same ranges', () => {
    const short = (text: string) => () =>
      normalScene(parseSceneText(JSON.stringify({ regions: [text] }), 's.json'), (file) => file);
    expect(short('a @ 0,0,1,1 feather=1e9')).toThrow(/region "a @.*": feather: expected 0 … 4096/);
    expect(short('a @ 0,0,1,1 feather=-1')).toThrow(/expected 0 … 4096, got -1/);
    expect(short('a @ 0,0,1,1 weight=0')).toThrow(/weight: expected 0.001 … 1000/);
    expect(short('a @ 0,0,1e309,1')).toThrow(/expected a number/);
    expect(short(`a @ ${'0,1 '.repeat(1025)}`)).toThrow(/polygon: expected at most 1024/);
  });

  it('names the line of an unknown key, also after many blank ones', () => {
    const start = performance.now();
    expect(() => parseSceneText(`prompt: a\n${'\n'.repeat(100_000)}stepz: 3`, 's.yaml')).toThrow(
      /s.yaml:100002: unknown key "stepz"/,
    );
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it.skipIf(process.platform === 'win32')('reads no device', async () => {
    await expect(readSceneFile('/dev/zero')).rejects.toThrow(/got a device or a pipe/);
  });
});
