import { describe, expect, it } from 'vitest';
import { FormatError, UsageError } from '../../src/errors.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { parseSceneText } from '../../src/sampling/scene-file.ts';

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
});
