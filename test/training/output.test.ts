/** What is written of a training: words are never lost, and what a format cannot hold is refused before the first step. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { UsageError } from '../../src/errors.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { DEFAULT_FAMILY } from '../../src/models/families/families.ts';
import { TRAINING_METHODS } from '../../src/training/methods/index.ts';
import { resolveSettings } from '../../src/training/methods/method.ts';
import { type TrainingInput, trainingSchema } from '../../src/training/options.ts';
import { checkTrainedTarget, writeTrained } from '../../src/training/output.ts';
import type { TrainedConcept } from '../../src/training/train.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { tokenOf, vectorsOf } from '../support/tokens.ts';

const scratch = scratchFolder();

function settingsOf(given: Partial<TrainingInput>) {
  const settings = trainingSchema.parse({ data: 'pictures', ...given });
  return resolveSettings(TRAINING_METHODS[settings.method], settings);
}

const check = (name: string, given: Partial<TrainingInput>): void =>
  checkTrainedTarget(scratch(name), settingsOf(given), { inputs: [], force: false, resume: false });

const trained = (given: Partial<TrainingInput>): TrainedConcept => {
  const settings = settingsOf(given);
  const rows = Float32Array.from({ length: 8 }, (_, i) => Math.sin(i));
  return {
    family: DEFAULT_FAMILY,
    method: TRAINING_METHODS[settings.method],
    settings,
    tokens: [
      tokenOf('<a>', float32Tensor('<a>', [1, 8], rows)),
      tokenOf(
        '<b>',
        float32Tensor(
          '<b>',
          [1, 8],
          rows.map((value) => 2 * value),
        ),
      ),
    ],
    layers: [
      {
        component: 'unet',
        layerName: 'mid_block.attentions.0.transformer_blocks.0.attn2.to_k',
        up: rows,
        down: rows,
        rank: 2,
        kernel: null,
      },
    ],
    log: [{ step: 1, loss: 1, embeddingNorm: 1 } as TrainedConcept['log'][number]],
    pictures: 1,
    views: 1,
  };
};

describe('formats that hold no words', () => {
  it.each(['kohya', 'diffusers', 'peft'] as const)('%s: the words lie beside', async (format) => {
    const out = scratch(format === 'peft' ? `${format}-lora` : `${format}.safetensors`);
    const files = await writeTrained(out, trained({ method: 'lora', token: '<a>+<b>', format }));
    expect(path.basename(files.embeddings!)).toBe(
      `${path.basename(out).replace('.safetensors', '')}.embeddings.safetensors`,
    );
    const { words } = await loadAdapter(files.embeddings!);
    expect(words.map(({ word }) => word).sort()).toEqual(['<a>', '<b>']);
    const { layers, metadata, words: none } = await loadAdapter(files.concept);
    expect([layers.size, none.length]).toEqual([1, 0]);
    expect(metadata.get('modelspec.trigger_phrase')).toBe('<a> <b>');
  });

  it.each([
    { method: 'textual-inversion', token: '<a>' },
    { method: 'xti', token: '<a>' },
    { method: 'lora', token: '<a>', lrUnet: 0, lrText: 0 },
  ] as const)('refuse $method where it trains nothing else', (given) => {
    for (const format of ['kohya', 'diffusers', 'peft'] as const) {
      expect(() => check('words.safetensors', { ...given, format })).toThrow(/words alone/);
    }
    check('words.safetensors', given);
    check('words.safetensors', { ...given, format: 'ed-lora' });
  });
});

it('a file of ED-LoRA holds its words, as they are', async () => {
  const files = await writeTrained(scratch('own.safetensors'), trained({ method: 'lora', token: '<a>+<b>' }));
  expect(files.embeddings).toBeNull();
  const { tokens } = await loadConcept(files.concept);
  expect(tokens.map((token) => [token.word, vectorsOf(token).shape])).toEqual([
    ['<a>', [1, 8]],
    ['<b>', [1, 8]],
  ]);
});

it('convolutions that ED-LoRA has no place for are refused before any work', () => {
  const given = { method: 'lora', convRank: 4 } as const;
  expect(() => check('c.safetensors', { ...given, token: '<a>' })).toThrow(UsageError);
  expect(() => check('c.safetensors', { ...given, token: '<a>' })).toThrow(/convRank: .*1 × 1/);
  check('c.safetensors', { ...given, token: '<a>', format: 'kohya' });
  check('c.safetensors', given);
});

it.each<[Partial<TrainingInput>, string, RegExp | null]>([
  [{ method: 'lora' }, 'a.safetensors', null],
  [{ method: 'lora' }, 'a.ckpt', /ends in \.safetensors or \.pth/],
  [{ method: 'lora' }, 'a.pth', null],
  [{ method: 'lora', format: 'kohya' }, 'a.pth', /use \.safetensors for kohya/],
  [{ method: 'lora', format: 'peft' }, 'a', null],
  [{ method: 'ed-lora', token: '<a>', init: 'x' }, 'a.pth', null],
  [{ method: 'lora', lrUnet: 0, lrText: 1 }, 'a.safetensors', null],
  [{ method: 'custom-diffusion', token: '<a>', classPrompt: 'x', format: 'kohya' }, 'a.safetensors', null],
])('of %j a file called %s: refused for %s', (given, name, message) => {
  if (message === null) expect(() => check(name, given)).not.toThrow();
  else expect(() => check(name, given)).toThrow(message);
});

describe('files of an earlier run', () => {
  const given = { method: 'lora', steps: 10, sampleEvery: 4 } as const;
  const names = ['.safetensors', '.train.json', '.loss.svg', '.step-00004.png', '.step-00008.png'];

  it.each([...names, '.state.safetensors'])(
    'one called a%s is in the way unless it may be replaced',
    (ending) => {
      const out = scratch(`earlier${ending}`, 'a.safetensors');
      const target = (rules: { force?: boolean; resume?: boolean; inputs?: string[] }) => () =>
        checkTrainedTarget(out, settingsOf(given), { inputs: [], force: false, resume: false, ...rules });
      mkdirSync(path.dirname(out));
      const file = path.join(path.dirname(out), `a${ending}`);
      expect(target({})).not.toThrow();
      writeFileSync(file, '');
      expect(target({})).toThrow(UsageError);
      expect(target({ force: true })).not.toThrow();
      expect(target({ resume: true })).not.toThrow();
      // What is read is never written over.
      expect(target({ force: true, inputs: [file] })).toThrow(UsageError);
    },
  );

  it('others are not: pictures of steps that are not reached, or are not asked for', () => {
    const out = scratch('others', 'a.safetensors');
    mkdirSync(path.dirname(out));
    for (const ending of ['.step-00012.png', '.step-00005.png', '.embeddings.safetensors'])
      writeFileSync(out.replace('.safetensors', ending), '');
    checkTrainedTarget(out, settingsOf(given), { inputs: [], force: false, resume: false });
    writeFileSync(out.replace('.safetensors', '.step-00004.png'), '');
    const without = settingsOf({ ...given, sampleEvery: 0 });
    checkTrainedTarget(out, without, { inputs: [], force: false, resume: false });
  });
});

it('what is told of a run has its folders as seen from the file, and the file itself none', async () => {
  const out = scratch('told', 'a.safetensors');
  mkdirSync(path.dirname(out));
  const place = (name: string): string => path.join(path.dirname(out), name);
  const given = { data: place('pictures'), masks: place('masks'), captionFolder: place('texts') };
  const files = await writeTrained(out, trained({ method: 'lora', ...given }));
  const { settings, method, pictures, views, log } = JSON.parse(readFileSync(files.settings, 'utf8'));
  expect(settings).toMatchObject({ data: 'pictures', masks: 'masks', captionFolder: 'texts', classData: '' });
  expect([method.name, pictures, views, log]).toEqual([
    'lora',
    1,
    1,
    [{ step: 1, loss: 1, embeddingNorm: 1 }],
  ]);
  const inside = JSON.parse((await loadAdapter(files.concept)).metadata.get('edlora.settings')!);
  expect(Object.keys(inside)).not.toEqual(expect.arrayContaining(['data']));
  expect([inside.masks, inside.captionFolder, inside.rank]).toEqual([undefined, undefined, 4]);
  const auto = await writeTrained(scratch('auto.safetensors'), trained({ method: 'lora' }));
  const own = JSON.parse((await loadAdapter(auto.concept)).metadata.get('edlora.settings')!);
  expect(own.masks).toBe('auto');
  expect(readFileSync(files.plot, 'utf8')).toContain('<svg');
});
