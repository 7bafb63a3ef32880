import { copyFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { sshsHashes, sshsHashesOf } from '../../src/adapters/metadata.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { fileHashes } from '../../src/merging/hashes.ts';
import { scratch } from '../merging/random-adapters.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Hashes {
  hash_small: {
    metadata_hashed: Record<string, string>;
    sshs_model_hash: string;
    sshs_legacy_hash: string;
    file_sha256: string;
    webui_old_model_hash: string;
  };
  recipe_large: { sshs_model_hash: string; sshs_legacy_hash: string };
}

const { hash_small: small, recipe_large: large } = goldenJson<Hashes>('goldens-fusion/keys/hashes.json');
const file = goldenPath('goldens-fusion/keys/hash_small.safetensors');

describe('hashes of a LoRA file', () => {
  it('are those of web interfaces and model sites', async () => {
    expect(await fileHashes(file)).toEqual({
      sha256: small.file_sha256,
      autoV1: small.webui_old_model_hash,
      autoV2: small.file_sha256.slice(0, 10),
      autoV3: small.sshs_model_hash.slice(0, 12),
      sshsModel: small.sshs_model_hash,
    });
  });

  it('know a safetensors file by its content, not its name', async () => {
    const renamed = scratch('lora.bin');
    copyFileSync(file, renamed);
    expect((await fileHashes(renamed)).sshsModel).toBe(small.sshs_model_hash);
    const other = scratch('notes.safetensors');
    writeFileSync(other, 'no tensors');
    expect(await fileHashes(other)).toMatchObject({ autoV3: null, sshsModel: null });
  });

  it('are known before a file is written', async () => {
    const { tensors } = await openTensorFile(file);
    const { modelHash, legacyHash } = await sshsHashesOf(tensors.values(), small.metadata_hashed);
    expect(modelHash).toBe(small.sshs_model_hash);
    expect(legacyHash).toBe(small.sshs_legacy_hash);
  });

  it('cover the right stretch of a larger file', async () => {
    const recipe = scratch('large.safetensors');
    const bytes = Buffer.alloc(24 + 0x120000);
    bytes.writeBigUInt64LE(16n);
    bytes.write('{"__metadata__":', 8, 'latin1');
    for (let j = 0; j < 0x120000; j++) bytes[24 + j] = (7 * j + Math.floor(j / 251)) % 256;
    writeFileSync(recipe, bytes);
    expect(await sshsHashes(recipe)).toEqual({
      modelHash: large.sshs_model_hash,
      legacyHash: large.sshs_legacy_hash,
    });
  });
});
