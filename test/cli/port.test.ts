/** `edlora port`: from a concept file to files of other programs, on the miniature with random weights. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { portableWords } from '../../src/fusion/port/write-port.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { fakeIo } from '../support/fake-io.ts';
import { goldenPath } from '../support/goldens.ts';
import { smallFusion } from '../support/small-fusion.ts';

const model = goldenPath('goldens/tiny-random/model');
const edlora = goldenPath('goldens/tiny-random/edlora.pth');
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-cli-port-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function edloraRun(...argv: string[]) {
  const io = fakeIo();
  const code = await run(argv, io);
  return { code, ...io.written };
}

describe('port', () => {
  it('writes a LoRA, a file per word, and how to call them; sample draws with them', async () => {
    const out = path.join(folder, 'portable');
    const plan = await edloraRun('port', edlora, '--base', model, '--out', out, '--dry-run');
    expect(plan.out).toContain('words: <potter1> → potter1, <potter2> → potter2');
    const how = ['--port-rank', '2', '--port-steps', '1'];
    const argv = ['port', edlora, '--base', model, '--out', out, ...how, '--quiet'];
    const { code, err, out: said } = await edloraRun(...argv);
    expect(code, err).toBe(0);
    expect(said).toMatch(/Embeddings: (those of step 1|no step)/);
    expect(said).toMatch(/keys +-?\d+ % +-?\d+ % +-?\d+ %/);
    expect(readdirSync(out).sort()).toEqual([
      'README.md',
      'lora-with-words.safetensors',
      'lora.safetensors',
      'potter1.safetensors',
      'potter2.safetensors',
    ]);
    for (const name of readdirSync(out)) expect(said, 'every file is listed').toContain(name);
    expect(readFileSync(path.join(out, 'README.md'), 'utf8')).toContain('**potter1 potter2**');
    const lora = await loadAdapter(path.join(out, 'lora.safetensors'));
    expect(lora.words).toEqual([]);
    const layer = lora.layers.get('unet:mid_block.attentions.0.transformer_blocks.0.attn2.to_v');
    expect(layer!.rank).toBe(2);
    const both = await loadAdapter(path.join(out, 'lora-with-words.safetensors'));
    expect(both.words.map(({ word, rows }) => [word, rows])).toEqual([
      ['potter1', 'tokens'],
      ['potter2', 'tokens'],
    ]);
    const words = ['potter1', 'potter2'].map((word) => path.join(out, `${word}.safetensors`));
    const scene = ['--base', model, '--loras', path.join(out, 'lora.safetensors'), '--embeddings', ...words];
    const pictures = await edloraRun('sample', ...scene, '--prompt', 'a potter1 potter2', '--dry-run');
    expect(pictures).toMatchObject({ code: 0, err: '' });
    const again = await edloraRun(...argv);
    expect(again).toMatchObject({ code: 2 });
    expect(again.err).toContain('exists and is not empty');
  }, 60_000);

  it('refines a fusion by the concepts that it was made of, in the line that fuses and from its folder', async () => {
    const { base, concepts } = await smallFusion();
    const out = path.join(folder, 'fused');
    const files = Object.values(concepts);
    const how = ['--port-rank', '2', '--port-steps', '0', '--port-refine', '1', '--quiet'];
    const fast = ['--steps', '1', '--runs', '1', '--base', base.path, '--out', out];
    const fused = await edloraRun('fuse', '--concepts', ...files, ...fast, '--portable', ...how);
    expect(fused.code, fused.err).toBe(0);
    const names = ['maple1', 'maple2', 'river1', 'river2'].map((word) => `${word}.safetensors`);
    expect(readdirSync(path.join(out, 'portable'))).toEqual(expect.arrayContaining(names));
    const again = path.join(folder, 'again');
    const { code, err, out: said } = await edloraRun('port', out, '--out', again, ...how);
    expect(code, err).toBe(0);
    expect(said).toMatch(/^Refined: /m);
    // The folder's LoRA is the fusion in float32, so numbers are near and not the same.
    const tensors = async (place: string) =>
      (await openTensorFile(path.join(place, 'lora.safetensors'))).tensors;
    const fromFolder = await tensors(again);
    for (const [name, tensor] of await tensors(path.join(out, 'portable'))) {
      expect(readFloat32(fromFolder.get(name)!), name).toBeAllClose(readFloat32(tensor), { atol: 1e-4 });
    }
    rmSync(concepts.river);
    const gone = await edloraRun('port', out, '--out', path.join(folder, 'gone'), ...how, '--dry-run');
    expect(gone.code).not.toBe(0);
    expect(gone.err).toContain(concepts.river);
  }, 60_000);

  it('has nothing to do for a LoRA without words', async () => {
    const lora = path.join(folder, 'plain.safetensors');
    expect((await edloraRun('convert', edlora, lora, '--format', 'kohya', '--drop')).code).toBe(0);
    const { code, err } = await edloraRun('port', lora, '--base', model, '--out', path.join(folder, 'none'));
    expect(code).toBe(2);
    expect(err).toContain('has no words of its own, so there is nothing to port');
    // A folder of PEFT's has one for each network, as a model has.
    const peft = path.join(folder, 'peft');
    expect((await edloraRun('convert', edlora, peft, '--format', 'peft', '--drop')).code).toBe(0);
    const other = await edloraRun('port', peft, '--base', model, '--out', path.join(folder, 'none'));
    expect([other.code, other.err]).toEqual([2, expect.stringContaining('nothing to port')]);
    const drawn = ['--fused', peft, '--prompt', 'a tree', '--dry-run'];
    const { err: refused } = await edloraRun('sample', ...drawn);
    expect(refused).toContain(
      'expected a fusion or a fused checkpoint, got a LoRA; name it among the concepts',
    );
  });

  it('refuses what is no number of steps, before it reads a thing', async () => {
    for (const [option, value, message] of [
      ['--port-steps', 'many', '--port-steps: expected a number, got "many"'],
      ['--port-refine', '1.5', 'refine: expected a whole number from 0 to'],
      ['--port-steps', '-1', 'steps: expected a whole number from 0 to'],
      ['--port-rank', '0', 'rank: expected a whole number of 1 or more'],
    ]) {
      const place = ['--base', model, '--out', path.join(folder, 'none')];
      const { code, err } = await edloraRun('port', edlora, ...place, `${option}=${value}`);
      expect([code, err], option).toEqual([2, expect.stringContaining(message!)]);
    }
  });

  it('calls words without brackets, unless the base knows such a word', async () => {
    const { tokenizer } = await openCheckpoint(model);
    const known = [...'abcdefghijklmnopqrstuvwxyz'].find(
      (letter) => tokenizer.tokenId(`${letter}</w>`) !== undefined,
    )!;
    const called = portableWords([`<${known}>`, '<my.cat>', 'mycat', '<<>>'], tokenizer);
    expect([...called.values()]).toEqual([`${known}1`, 'mycat', 'mycat1', 'word']);
  });
});
