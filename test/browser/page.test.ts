/** Inspecting, converting and merging, bundled for a browser: nothing of Node is left, and the bytes are those of Node. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import vm from 'node:vm';
import { rolldown } from 'rolldown';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { toolVersion as versionInBrowser } from '../../src/package-root.browser.ts';
import { packageRoot, toolVersion } from '../../src/package-root.ts';
import type { PageResult } from './page.ts';

const root = packageRoot();
const concept = path.join(root, 'fixtures/tiny-world/concepts/edlora_smiley.pth');
const chromium = [
  process.env.CHROME_PATH ?? '',
  ...['chromium', 'chromium-browser', 'google-chrome'].map((name) => `/usr/bin/${name}`),
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
].find((file) => file !== '' && existsSync(file));

/** As bundlers do that know package.json's `browser`, for sources instead of the build. */
const browserSides = {
  name: 'browser-sides',
  resolveId(target: string, importer: string | undefined): string | null {
    if (importer === undefined || !target.startsWith('.')) return null;
    const side = path.resolve(path.dirname(importer), target).replace(/\.ts$/, '.browser.ts');
    return !target.endsWith('.browser.ts') && existsSync(side) ? side : null;
  },
};

let folder: string;
let lora: string;
let script: string;
let expected: PageResult;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'edlora-page-'));
  lora = path.join(folder, 'lora.safetensors');
  await convertFile({ input: concept, format: 'kohya', out: lora, drop: true });
  const bundle = await rolldown({
    input: path.join(root, 'test/browser/page.ts'),
    platform: 'browser',
    plugins: [browserSides],
    // What is missing in a browser must not become a warning.
    onLog: (_level, log) => {
      throw new Error(log.message);
    },
  });
  const { output } = await bundle.generate({ format: 'iife', name: 'page', codeSplitting: false });
  await bundle.close();
  script = output[0].code;
  const [converted, merged] = ['converted', 'merged'].map((name) =>
    path.join(folder, `${name}.safetensors`),
  ) as [string, string];
  const { layers } = await convertFile({
    input: lora,
    format: 'diffusers',
    out: converted,
  });
  const plain = { textEncoderStrength: null, blockWeights: null };
  await mergeFiles({
    inputs: [
      { path: lora, strength: 0.5, ...plain },
      { path: converted, strength: 0.25, ...plain },
    ],
    method: 'svd',
    rank: 2,
    out: merged,
  });
  expected = {
    kind: 'lora',
    words: ['<smiley1>', '<smiley2>'],
    layers,
    converted: await readFile(converted),
    merged: await readFile(merged),
  };
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

describe('the library in a browser', () => {
  it('is of the version that package.json says', () => {
    expect(versionInBrowser()).toBe(toolVersion());
  });

  it('runs where there is nothing of Node', async () => {
    expect(script).not.toMatch(/\bnode:|\brequire\(/);
    const web = {
      ...{
        TextDecoder,
        TextEncoder,
        crypto,
        performance,
        setTimeout,
        MessageChannel,
        AbortController,
        AbortSignal,
      },
      ...{ Blob, CompressionStream, URL, DOMException },
    };
    const { work } = vm.runInNewContext(`${script}; page`, web) as {
      work(bytes: Uint8Array, concept: Uint8Array): Promise<PageResult>;
    };
    const result = await work(new Uint8Array(await readFile(lora)), new Uint8Array(await readFile(concept)));
    expect([result.kind, result.words, result.layers]).toEqual([
      expected.kind,
      expected.words,
      expected.layers,
    ]);
    expect(same(result.converted, expected.converted)).toBe(true);
    expect(same(result.merged, expected.merged)).toBe(true);
  });

  it.skipIf(chromium === undefined)('runs in headless Chromium', async () => {
    const [bytes, words] = await Promise.all([lora, concept].map((file) => readFile(file, 'base64')));
    const page = path.join(folder, 'page.html');
    await writeFile(
      page,
      `<!doctype html><meta charset="utf-8"><pre id="out">working</pre><script>${script.replaceAll('</script', '<\\/script')}</script><script>
        const text = (bytes) => { let s = ''; for (const b of bytes) s += String.fromCharCode(b); return btoa(s); };
        const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        page.work(bytesOf('${bytes}'), bytesOf('${words}')).then(
          (r) => ({ ...r, converted: text(r.converted), merged: text(r.merged) }),
          (error) => ({ error: String(error?.stack ?? error) }),
        ).then((r) => { document.getElementById('out').textContent = 'done ' + text(new TextEncoder().encode(JSON.stringify(r))); });
      </script>`,
    );
    const { stdout } = await promisify(execFile)(
      chromium!,
      [
        ...['--headless=new', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=60000'],
        ...[`--user-data-dir=${path.join(folder, 'profile')}`, '--dump-dom', `file://${page}`],
      ],
      { maxBuffer: 1 << 28, timeout: 50_000 },
    );
    const result = JSON.parse(
      Buffer.from(/<pre id="out">done (.*?)<\/pre>/s.exec(stdout)?.[1] ?? '', 'base64').toString(),
    );
    expect(result.error).toBe(undefined);
    expect([result.kind, result.words, result.layers]).toEqual([
      expected.kind,
      expected.words,
      expected.layers,
    ]);
    expect(same(Buffer.from(result.converted, 'base64'), expected.converted)).toBe(true);
    expect(same(Buffer.from(result.merged, 'base64'), expected.merged)).toBe(true);
  });
});
