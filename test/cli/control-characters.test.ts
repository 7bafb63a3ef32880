/** Names, words and headers of hostile files on their way to a terminal. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

/** Title, screen, a forged line, C1, a bidirectional override, and a colour that this program uses itself. */
const HOSTILE = '\x1b]0;owned\x07\x1b[2J\r\nok: forged\x9b1m\u202etxt\x1b[32mgreen\x1b[39m';
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-control-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => path.join(folder, name);

/** Run a line; nothing of what it says may steer a terminal or begin a line that a file wrote. */
async function harmless(...argv: string[]) {
  const io = fakeIo();
  const code = await run(argv, io);
  const said = io.written.out + io.written.err;
  expect(said.replaceAll('\n', ''), argv.join(' ')).not.toMatch(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/u);
  expect(said, argv.join(' ')).not.toMatch(/^\W*ok: forged/m);
  const coloured = fakeIo({ colour: true, interactive: true });
  await run(argv, coloured);
  const shown = coloured.written.out + coloured.written.err;
  expect(shown, `${argv.join(' ')} in colour`).not.toContain('\x1b[32mgreen');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is about them
  const own = shown.replaceAll(/\r?\x1b\[\d*[mK]/g, '').replaceAll('\n', '');
  expect(own, `${argv.join(' ')} in colour`).not.toMatch(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/u);
  expect(shown, `${argv.join(' ')} in colour`).not.toMatch(/^\W*ok: forged/m);
  return { code, said };
}

it('are shown, never sent', async () => {
  const layer = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q';
  const pair = [
    float32Tensor(`${layer}.lora_up.weight`, [32, 1], new Float32Array(32)),
    float32Tensor(`${layer}.lora_down.weight`, [1, 32], new Float32Array(32)),
  ];
  const metadata = { ss_output_name: HOSTILE, [HOSTILE]: 'x' };
  await writeSafetensors(at('header.safetensors'), pair, metadata);
  await writeSafetensors(at('names.safetensors'), [
    ...pair,
    float32Tensor(HOSTILE, [2, 2], new Float32Array(4)),
  ]);
  await writeSafetensors(at('words.safetensors'), [
    ...pair,
    float32Tensor(`bundle_emb.${HOSTILE}.string_to_param.*`, [1, 32], new Float32Array(32)),
  ]);
  writeFileSync(at(`dir${HOSTILE.replace(/[/\0]/g, '')}.json`), '{}');
  writeFileSync(at('scene.yaml'), JSON.stringify({ prompt: HOSTILE, negative: HOSTILE, [HOSTILE]: 1 }));
  const files = ['header', 'names', 'words'].map((name) => at(`${name}.safetensors`));
  for (const file of files) {
    expect((await harmless('inspect', file, '--tensors')).said).toContain(path.basename(file));
    await harmless('inspect', file, '--json');
    await harmless('verify', file);
    await harmless('convert', file, at('out.safetensors'), '--format', 'diffusers', '--force', '--verbose');
    await harmless('convert', file, at('out.safetensors'), '--format', 'diffusers', '--drop', '--force');
    await harmless('merge', file, file, '--drop', '--force', '--out', at('merged.safetensors'));
    await harmless('fuse', '--concepts', file, file, '--out', at('fused'), '--dry-run');
    await harmless('sample', '--loras', file, '--prompt', HOSTILE, '--dry-run');
  }
  expect((await harmless('inspect', files[0]!)).said).toContain('\\u001b]0;owned');
  await harmless('sample', '--scene', at('scene.yaml'), '--dry-run');
  await harmless(
    'sample',
    '--prompt',
    HOSTILE,
    '--negative',
    HOSTILE,
    '--region',
    `${HOSTILE} @ 0,0,1,1`,
    '--dry-run',
  );
  await harmless('inspect', at(`dir${HOSTILE.replace(/[/\0]/g, '')}.json`));
  await harmless('inspect', at(HOSTILE), '--verbose');
  await harmless(
    'train',
    '--data',
    path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley'),
    '--token',
    HOSTILE,
    '--out',
    at('t.safetensors'),
  );
  await harmless(HOSTILE);
  await harmless('fuse', `--${HOSTILE}`);
});

it('of names in folders, of settings and of lists are shown, never sent', async () => {
  const name = HOSTILE.replace(/[/\0]/g, '');
  const data = at('pictures');
  mkdirSync(data);
  writeFileSync(path.join(data, `${name}.png`), 'no picture');
  writeFileSync(path.join(data, `${name}.txt`), HOSTILE);
  await harmless('train', '--data', data, '--token', '<x>', '--out', at('t.safetensors'));
  writeFileSync(at('train.yaml'), JSON.stringify({ data, [HOSTILE]: 1, token: HOSTILE, captions: HOSTILE }));
  await harmless('train', '--config', at('train.yaml'), '--out', at('t.safetensors'));
  for (const [file, entries] of [
    [
      'list.json',
      [{ lora_path: `${HOSTILE}.pth`, unet_alpha: 1, text_encoder_alpha: 1, concept_name: HOSTILE }],
    ],
    ['keys.json', [{ [HOSTILE]: HOSTILE }]],
    ['text.json', HOSTILE],
  ] as const) {
    writeFileSync(at(file), JSON.stringify(entries));
    await harmless('fuse', '--config', at(file), '--out', at('fused'), '--dry-run');
  }
  writeFileSync(at(`${name}.yaml`), '{');
  await harmless('sample', '--scene', at(`${name}.yaml`));
  await harmless('sample', '--sampler', HOSTILE, '--prompt', 'x');
  await harmless('fuse', '--concepts', 'a.pth', '--stages', HOSTILE);
  await harmless('merge', 'a.pth', 'b.pth', '--method', HOSTILE, '--out', at('m.safetensors'));
  await harmless('eval', '--concept', at(name), '--reference', data, '--out', at('report'));
  await harmless('eval', '--compare', at(name));
  await harmless('bake', '--base', data, '--loras', at(name), '--out', at('baked'));
  await harmless('extract', data, at(name), '--out', at('x.safetensors'));
  await harmless('collect', at(name));
  await harmless('lint', at(name), at(name));
});
