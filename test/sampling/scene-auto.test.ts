/** Scenes whose regions nobody draws: what their prompts call, the places that are kept as files, and those files drawn again. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { readGrayPicture, readPicture } from '../../src/formats/picture.ts';
import { packageRoot } from '../../src/package-root.ts';
import { drawScene, planScene } from '../../src/sampling/draw-scene.ts';
import { openSceneModel, type SceneModel } from '../../src/sampling/model-source.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { wordedScene } from '../../src/sampling/scene-auto.ts';
import { readSceneFile } from '../../src/sampling/scene-file.ts';
import { scratch } from '../support/scratch.ts';

const file = (name: string): string =>
  path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
const SMILEY = '<smiley1> <smiley2>';
const BULLSEYE = '<bullseye1> <bullseye2>';
const PROMPT = `a ${BULLSEYE} and a ${SMILEY} on a blue background`;
const SCENE = {
  concepts: [file('smiley'), file('bullseye')],
  prompt: PROMPT,
  regions: 'auto' as const,
  width: 128,
  height: 64,
  steps: 2,
  guidance: 4,
  isolate: 1,
  seed: 3,
};

let model: SceneModel;
beforeAll(async () => {
  model = await openSceneModel(normalScene(SCENE));
});

describe('a prompt', () => {
  it('calls concepts from left to right, and is theirs without the others', () => {
    expect(wordedScene(PROMPT, model)).toEqual({
      background: 'on a blue background',
      regions: [
        { words: ['<bullseye1>', '<bullseye2>'], prompt: `a ${BULLSEYE} on a blue background` },
        { words: ['<smiley1>', '<smiley2>'], prompt: `a ${SMILEY} on a blue background` },
      ],
    });
  });

  it('without words of concepts has nothing to find', async () => {
    expect(() => wordedScene('a red circle', model)).toThrow('the words are <smiley1>, <smiley2>');
    const bare = planScene(normalScene({ ...SCENE, prompt: undefined }));
    await expect(bare).rejects.toThrow(UsageError);
    const none = planScene(normalScene({ prompt: 'a cat', regions: 'auto' }));
    await expect(none).rejects.toThrow('load concepts that have some');
  });
});

it('places are kept as files, drawn again from them, and never written over', async () => {
  const folder = scratch('pictures');
  const masks = scratch('masks');
  const planned = await planScene(normalScene(SCENE));
  expect(planned.notes).toEqual([]);
  expect(planned.request.autoRegions!.regions.map(({ concepts }) => concepts![0]!.concept)).toEqual([1, 0]);
  const drawn = await drawScene(planned, { folder, masks });
  const [scene] = drawn.scenes;
  expect(readdirSync(path.dirname(scene!)).sort()).toEqual([
    '1-bullseye1-bullseye2.png',
    '2-smiley1-smiley2.png',
    'scene.yaml',
  ]);
  const again = normalScene(await readSceneFile(scene!), (name) => path.resolve(path.dirname(scene!), name));
  expect(again.autoRegions).toBeUndefined();
  expect(again.prompt).toBe('on a blue background');
  const redrawn = await drawScene(await planScene(again), { folder });
  const [first, second] = [
    await readPicture(drawn.pictures[0]!.file),
    await readPicture(redrawn.pictures[0]!.file),
  ];
  const largest = first.data.reduce((most, value, i) => Math.max(most, Math.abs(value - second.data[i]!)), 0);
  expect(largest).toBeLessThanOrEqual(1);

  // Somebody edits a mask; another run keeps to a folder of its own.
  const mask = again.regions[0]!.mask!;
  expect((await readGrayPicture(mask, {})).width).toBe(128);
  writeFileSync(mask, 'edited');
  const other = await drawScene(planned, { folder, masks });
  expect(readFileSync(mask, 'utf8')).toBe('edited');
  expect(path.basename(path.dirname(other.scenes[0]!))).toBe('seed-3-2');
  expect(existsSync(scene!)).toBe(true);
});

it('places to keep are those that are found', async () => {
  const planned = await planScene(normalScene({ prompt: 'a cat', steps: 1 }));
  await expect(drawScene(planned, { folder: scratch('none'), masks: scratch('kept') })).rejects.toThrow(
    'expected regions that find their places',
  );
});
