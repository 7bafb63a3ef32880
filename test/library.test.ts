/** The examples of docs/library.md: each is compiled against the index, and run as it stands, in order. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { packageRoot } from '../src/package-root.ts';

const root = packageRoot();
const sections = readFileSync(path.join(root, 'docs/library.md'), 'utf8').split(/^## /m).slice(1);
const examples = sections.flatMap((section) => {
  const title = section.slice(0, section.indexOf('\n'));
  return [...section.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code]) => ({ title, code: code! }));
});
const index = path.join(root, 'src/index.ts');

let folder: string;
const home = process.cwd();
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-library-'));
  symlinkSync(path.join(root, 'fixtures'), path.join(folder, 'fixtures'));
  writeFileSync(path.join(folder, 'package.json'), '{"type": "module"}');
  process.chdir(folder);
  vi.spyOn(console, 'log').mockImplementation(() => undefined);
});
afterAll(() => {
  process.chdir(home);
  rmSync(folder, { recursive: true });
});

describe('the examples', () => {
  it('cover every job', () => {
    const text = examples.map(({ code }) => code).join('\n');
    const jobs =
      'openCheckpoint inspect convertFile mergeFiles resizeFile bakeFiles extractModel lintFiles fuse writeFusion collectStatistics drawScene Pipeline train runEvaluation verifyFile';
    expect(jobs.split(' ').filter((name) => !text.includes(name))).toEqual([]);
    expect(sections.length).toBe(examples.length);
  });

  it('compile against the index', () => {
    const place = path.join(folder, 'compiled');
    mkdirSync(place);
    for (const [i, { code }] of examples.entries()) writeFileSync(path.join(place, `${i}.ts`), code);
    const config = {
      extends: path.join(root, 'tsconfig.json'),
      compilerOptions: {
        rootDir: '/',
        paths: { edlora: [index] },
        typeRoots: [path.join(root, 'node_modules/@types')],
      },
      include: [place],
    };
    writeFileSync(path.join(folder, 'tsconfig.json'), JSON.stringify(config));
    const compiler = path.join(root, 'node_modules/typescript/lib/tsc.js');
    const told = (() => {
      try {
        return execFileSync(process.execPath, [compiler, '-p', folder], { encoding: 'utf8' });
      } catch (error) {
        return (error as { stdout: string }).stdout;
      }
    })();
    expect(told).toBe('');
  });

  it.each(examples)('$title', async ({ title, code }) => {
    const file = path.join(folder, `${title.replaceAll(/\W+/g, '-')}.ts`);
    writeFileSync(file, code.replaceAll("from 'edlora'", `from '${index}'`));
    await import(file);
  });
});
