import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

const fixture = (...parts: string[]): string => path.join(packageRoot(), 'fixtures', ...parts);
async function inspect(...argv: string[]) {
  const io = fakeIo();
  return { code: await run(['inspect', ...argv], io), ...io.written };
}

describe('edlora inspect', () => {
  it('says what a concept holds', async () => {
    const { code, out } = await inspect(fixture('tiny-world/concepts/edlora_smiley.pth'));
    expect(code).toBe(0);
    expect(out).toContain('ED-LoRA concept');
    expect(out).toContain('<smiley1> [16, 64], <smiley2> [16, 64]');
    expect(out).toMatch(/unet\s+128 layers of rank 4/);
    expect(out).toMatch(/text_encoder\s+12 layers of rank 4/);
  });

  it('takes several files and prints one JSON document', async () => {
    const files = [
      fixture('tiny-world/concepts/edlora_smiley.pth'),
      fixture('tiny-world/model'),
      fixture('goldens/tiny-random/single_file.safetensors'),
      fixture('goldens/formats/learned_embeds_legacy.bin'),
    ];
    const { code, out } = await inspect('--json', '--hash', ...files);
    expect(code).toBe(0);
    const kinds = (JSON.parse(out) as { kind: string; sha256: string | null; notes: string[] }[]).map(
      ({ kind }) => kind,
    );
    expect(kinds).toEqual(['concept', 'model-folder', 'checkpoint', 'tensors']);
    expect((JSON.parse(out) as { sha256: string | null }[])[0]!.sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  it.each([
    [fixture('goldens/hostile/exec_reduce_os_system.pt'), 'pickle refers to "os.system"'],
    [fixture('goldens/hostile/file_html.ckpt'), 'web page'],
    [fixture('nowhere.safetensors'), 'no such file'],
  ])('refuses %s with exit code 3', async (file, message) => {
    const { code, out, err } = await inspect(file);
    expect({ code, out }).toEqual({ code: 3, out: '' });
    expect(err).toContain(message);
  });
});
