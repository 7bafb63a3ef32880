/** What people hand over by mistake is named as such. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { openShardedOrSingle, openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { scratchFolder } from './scratch-folder.ts';

const scratch = scratchFolder();

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(scratch(name), content);
  return scratch(name);
}

const tensor = float32Tensor('w', [2], Float32Array.of(1, 2));
const tree = new Map([['w', torchTensor(tensor)]]);

describe('mistaken files', () => {
  it.each([
    ['page.safetensors', '\n<!DOCTYPE html><html>', /web page/],
    ['page.pth', '<html lang="en">', /web page/],
    [
      'pointer.bin',
      'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 42\n',
      /Git LFS pointer.*42 bytes/,
    ],
    ['empty.pt', '', /empty/],
    ['error.json', '{"error":"not found"}', /JSON/],
    ['model.gguf', 'GGUF0000', /GGUF/],
    ['picture.safetensors', Buffer.from('89504e470d0a1a0a0000', 'hex'), /PNG/],
    ['photo.pt', Buffer.from('ffd8ffe000104a46', 'hex'), /JPEG/],
    ['packed.pt', Buffer.from('1f8b080000000000', 'hex'), /gzip/],
    ['packed.bin', Buffer.from('377abcaf271c0004', 'hex'), /7z/],
    ['packed.ckpt', Buffer.from('526172211a070100', 'hex'), /RAR/],
    ['keras.bin', Buffer.from('894844460d0a1a0a', 'hex'), /HDF5/],
    ['array.bin', Buffer.from('934e554d50590100', 'hex'), /NumPy/],
    ['old.pt', Buffer.from(`${'0'.repeat(257)}ustar  `), /tar container of PyTorch before 0.1.10/],
    ['later.pt', Buffer.from('80055d2e', 'hex'), /another Python pickle/],
    ['sixth.pt', Buffer.from('80065d2e', 'hex'), /unknown content/],
    ['bare.pt', Buffer.from('80025d2e', 'hex'), /another Python pickle/],
    ['cut.pt', Buffer.from('80028a0a6cfc', 'hex'), /truncated download/],
    ['noise.pt', 'no weights at all', /unknown content/],
    ['noise.safetensors', 'no weights at all', /safetensors header/],
  ])('%s', async (name, content, message) => {
    const file = write(name, content);
    await expect(openTensorFile(file)).rejects.toThrow(FormatError);
    await expect(openTensorFile(file)).rejects.toThrow(message);
    await expect(openTensorFile(file)).rejects.toThrow(name);
  });

  it('folders and missing files', async () => {
    await expect(openTensorFile(scratch())).rejects.toThrow(/got a folder/);
    await expect(openTensorFile(scratch('nothing.pth'))).rejects.toThrow(/no such file/);
    await expect(openTensorFile(`${write('file', 'x')}/inside.pth`)).rejects.toThrow(/no such file/);
  });

  it('content decides, not the name', async () => {
    await writeTorchZip(scratch('torch.safetensors'), tree);
    await writeSafetensors(scratch('safe.pth'), [tensor]);
    expect((await openTensorFile(scratch('torch.safetensors'))).format).toBe('torch-zip');
    expect((await openTensorFile(scratch('safe.pth'))).format).toBe('safetensors');
  });
});

describe('model folders', () => {
  const folder = (name: string) => {
    mkdirSync(scratch(name));
    return scratch(name);
  };

  it.each(['model.safetensors', 'model.fp16.safetensors'])('%s', async (name) => {
    const place = folder(`single-${name}`);
    await writeSafetensors(`${place}/${name}`, [tensor]);
    const { tensors } = await openShardedOrSingle(place, 'diffusion_pytorch_model', 'model');
    expect([...readFloat32(tensors.get('w')!)]).toEqual([1, 2]);
  });

  it('shards, of either format', async () => {
    const place = folder('shards');
    await writeTorchZip(`${place}/model-1.bin`, tree);
    await writeSafetensors(`${place}/model-2.safetensors`, [float32Tensor('v', [1], Float32Array.of(3))]);
    const map = { v: 'model-2.safetensors', w: 'model-1.bin' };
    writeFileSync(`${place}/model.bin.index.json`, JSON.stringify({ weight_map: map }));
    const { tensors, format } = await openShardedOrSingle(place, 'model');
    expect(format).toBe('sharded');
    expect([...tensors.keys()]).toEqual(['v', 'w']);

    writeFileSync(
      `${place}/model.bin.index.json`,
      JSON.stringify({ weight_map: { w: 'model-2.safetensors' } }),
    );
    await expect(openShardedOrSingle(place, 'model')).rejects.toThrow(/expected tensor "w" in model-2/);
    writeFileSync(`${place}/model.bin.index.json`, JSON.stringify({ weight_map: {} }));
    await expect(openShardedOrSingle(place, 'model')).rejects.toThrow(/empty/);
  });

  it.each([
    '../w.safetensors',
    '/w.safetensors',
    'a/w.safetensors',
    '..\\w.safetensors',
    'model.bin.index.json',
  ])('an index that names %s is refused', async (shard) => {
    const file = write('bad.safetensors.index.json', JSON.stringify({ weight_map: { w: shard } }));
    await expect(openTensorFile(file)).rejects.toThrow(/a file in the same folder/);
  });

  it('says what it looked for', async () => {
    await expect(openShardedOrSingle(folder('bare'), 'model')).rejects.toThrow(/model.safetensors/);
    await expect(openShardedOrSingle(scratch('absent'), 'model')).rejects.toThrow(
      /model folder, got nothing/,
    );
  });
});
