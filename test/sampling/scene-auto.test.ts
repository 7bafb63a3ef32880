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

describe('LoRAs without words', () => {
  const XL = path.join(packageRoot(), 'fixtures/tiny-world-xl');
  const lora = (name: string): string => path.join(XL, 'concepts', `${name}.safetensors`);
  const plain = {
    base: path.join(XL, 'model'),
    loras: [{ path: lora('beachball'), strength: 0.5 }, lora('checker')],
    prompt: 'a chkr board and a bchbll ball',
    regions: 'auto' as const,
    width: 128,
    height: 64,
    steps: 1,
  };

  it('are called by the phrase of their header, act there alone, and are said to', async () => {
    const { request, notes, scene } = await planScene(normalScene(plain));
    const regions = request.autoRegions!.regions.map(({ prompt, concepts }) => ({ prompt, concepts }));
    expect(regions).toEqual([
      { prompt: 'a chkr board', concepts: [{ concept: 1, unetStrength: 1, textEncoderStrength: 1 }] },
      { prompt: 'a bchbll ball', concepts: [{ concept: 0, unetStrength: 0.5, textEncoderStrength: 0.5 }] },
    ]);
    expect(request.concepts).toEqual([]);
    expect(scene.isolate).toBe(0.5);
    expect(notes).toEqual([
      `beachball.safetensors: acts where "bchbll ball" is going to stand (a folder's name in ss_tag_frequency of its header)`,
      `checker.safetensors: acts where "chkr board" is going to stand (a folder's name in ss_tag_frequency of its header)`,
    ]);
  });

  it('act everywhere where the prompt does not call them', async () => {
    const { request } = await planScene(normalScene({ ...plain, prompt: 'a chkr board' }));
    const [region] = request.autoRegions!.regions;
    expect(region!.concepts!.map(({ concept }) => concept)).toEqual([0, 1]);
    expect(request.concepts!.map(({ concept }) => concept)).toEqual([0]);
  });

  it('are named by the regions of places that are kept', async () => {
    const masks = scratch('phrases');
    const { scenes } = await drawScene(await planScene(normalScene(plain)), {
      folder: scratch('balls'),
      masks,
    });
    const again = normalScene(await readSceneFile(scenes[0]!), (name) =>
      path.resolve(path.dirname(scenes[0]!), name),
    );
    expect(again.loras).toEqual([]);
    expect(again.regions.map(({ loras }) => loras)).toEqual([
      [{ path: lora('checker'), unetStrength: 1, textEncoderStrength: 1 }],
      [{ path: lora('beachball'), unetStrength: 0.5, textEncoderStrength: 0.5 }],
    ]);
    const { request } = await planScene(again);
    expect(request.regions!.map(({ concepts }) => concepts!.map(({ unetStrength }) => unetStrength))).toEqual(
      [[1], [0.5]],
    );
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
