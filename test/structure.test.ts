/** The house as docs/architecture.md draws it: imports lead to the left, and some things are known in one room only. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../src/package-root.ts';

const root = packageRoot();
/** Rooms that may import from all before them; several in one place may import from each other. */
const ORDER: readonly (readonly string[])[] = [
  ['io'],
  ['formats'],
  ['tensor', 'linalg'],
  ['optim', 'graph'],
  ['runtime'],
  ['models'],
  ['adapters'],
  ['concepts'],
  ['charts'],
  ['deprojector'],
  ['sampling'],
  ['training'],
  ['fusion', 'merging', 'evaluation'],
];
/** Files outside of any room, which everybody may import. */
const COMMON = new Set([
  'errors.ts',
  'package-root.ts',
  'visible.ts',
  'pace.ts',
  'settings.ts',
  'nearest-name.ts',
  'progress.ts',
]);

const sources = (folder: string): string[] =>
  readdirSync(path.join(root, folder), { recursive: true })
    .map((name) => `${folder}/${String(name).split(path.sep).join('/')}`)
    .filter((name) => name.endsWith('.ts'));
const read = (file: string) => ({ file, text: readFileSync(path.join(root, file), 'utf8') });
const files = sources('src').map(read);
const roomOf = (file: string): string => (file.split('/').length > 2 ? file.split('/')[1]! : '');
const placeOf = (room: string): number => ORDER.findIndex((rooms) => rooms.includes(room));
/** Imported files of the project, types included. */
const importsOf = ({ file, text }: { file: string; text: string }): string[] =>
  [...text.matchAll(/(?:from|import\()\s*'(\.{1,2}\/[^']+)'/g)].map(([, name]) =>
    path.posix.normalize(path.posix.join(path.posix.dirname(file), name!)),
  );

describe('the house', () => {
  it('has no room that the plan does not know', () => {
    const rooms = new Set(files.map(({ file }) => roomOf(file)).filter((room) => room !== ''));
    expect([...rooms].filter((room) => placeOf(room) < 0)).toEqual([]);
  });

  it('imports towards the left only', () => {
    const wrong = files.flatMap((source) => {
      const own = roomOf(source.file);
      if (own === '') return [];
      return importsOf(source)
        .filter((target) => {
          const room = roomOf(target);
          return room === '' ? !COMMON.has(path.posix.basename(target)) : placeOf(room) > placeOf(own);
        })
        .map((target) => `${source.file} → ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  it('has no files that import each other in a circle, types included', () => {
    const targets = new Map(files.map((source) => [source.file, importsOf(source)]));
    const circles: string[] = [];
    const done = new Set<string>();
    const visit = (file: string, way: readonly string[]): void => {
      if (way.includes(file)) circles.push([...way.slice(way.indexOf(file)), file].join(' → '));
      if (way.includes(file) || done.has(file)) return;
      for (const target of targets.get(file) ?? []) visit(target, [...way, file]);
      done.add(file);
    };
    for (const { file } of files) visit(file, []);
    expect(circles).toEqual([]);
  });

  it('shows cli the public index alone, beside what everybody may import', () => {
    const beyond = sources('cli')
      .flatMap((file) =>
        importsOf({ file, text: readFileSync(path.join(root, file), 'utf8') }).map((target) => ({
          file,
          target,
        })),
      )
      .filter(({ target }) => target.startsWith('src/') && target !== 'src/index.ts')
      .filter(({ target }) => roomOf(target) !== '' || !COMMON.has(path.posix.basename(target)));
    expect(beyond).toEqual([]);
  });

  it('knows onnxruntime in one folder, through one door', () => {
    const folder = 'src/runtime/onnxruntime/';
    const knowing = files.filter(({ text }) =>
      /from 'onnxruntime-node'|import\('onnxruntime-node'\)/.test(text),
    );
    expect(knowing.map(({ file }) => file).filter((file) => !file.startsWith(folder))).toEqual([]);
    const doors = files.filter(
      (source) =>
        !source.file.startsWith(folder) && importsOf(source).some((target) => target.startsWith(folder)),
    );
    // The index says how weights are read.
    expect(doors.map(({ file }) => file).sort()).toEqual(['src/index.ts', 'src/runtime/default-runtime.ts']);
  });

  it('has graphs that know no file format to run by', () => {
    const knowing = files.filter(({ file, text }) => roomOf(file) === 'graph' && /onnx/i.test(text));
    expect(knowing.map(({ file }) => file)).toEqual([]);
  });

  it('asks the platform in one folder, where a room is to run in a browser too', () => {
    const asking = files.filter(
      ({ file, text }) =>
        /^src\/(pace\.ts|(io|formats|linalg|models|adapters|concepts|merging|tensor|fusion\/solvers)\/)/.test(
          file,
        ) &&
        !/^src\/io\/platform\/[\w-]+\.ts$/.test(file) &&
        /from 'node:|\bBuffer[.([]|: Buffer\b|\bprocess\.\w|\bsetImmediate\b/.test(text),
    );
    expect(asking.map(({ file }) => file)).toEqual([]);
  });

  it('names to bundlers each file that has a browser side', () => {
    const sides = files.filter(({ file }) => file.endsWith('.browser.ts')).map(({ file }) => file);
    const { browser } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
      browser: Record<string, string>;
    };
    const built = (file: string): string => `./dist/${file.replace(/\.ts$/, '.js')}`;
    expect(browser).toEqual(
      Object.fromEntries(sides.map((file) => [built(file.replace('.browser.', '.')), built(file)])),
    );
    const named = new Set(files.map(({ file }) => file));
    expect(sides.filter((file) => !named.has(file.replace('.browser.', '.')))).toEqual([]);
    // A browser's side is reached by bundlers, and from its like.
    const reaching = files.filter(
      (source) =>
        !source.file.includes('.browser.') &&
        importsOf(source).some((target) => target.includes('.browser.')),
    );
    expect(reaching.map(({ file }) => file)).toEqual([]);
  });

  it('guides in one place: what is off, what is predicted and the loop over steps', () => {
    const apart = files.filter(
      ({ file, text }) =>
        (!file.endsWith('sampling/guidance.ts') &&
          /guidance\w*(\.scale)?\s*([!=]==|[<>]=?)\s*1\b/i.test(text)) ||
        (!/sampling\/(guidance|guided-rows)\.ts$/.test(file) && /\bguide(Value)?\(/.test(text)) ||
        (!/sampling\/(guided-run|samplers\/sampler)\.ts$/.test(file) && /\brunSampler\b/.test(text)),
    );
    expect(apart.map(({ file }) => file)).toEqual([]);
  });

  it('knows families in one folder: nobody else compares with a name, a width or the number of attentions', () => {
    const compared =
      /['"](sd1|sd2|sd3|sdxl|flux|SDXL)['"]|([!=]==|[<>]=?) *(16|768|1024|1280|2048)\b|\b(16|768|1024|1280|2048) *([!=]==|[<>]=?)|\b(768|1024|1280|2048):/;
    const asking = [...files, ...sources('cli').map(read)].filter(
      ({ file, text }) =>
        !file.startsWith('src/models/families/') &&
        // Rooms before it cannot know models.
        (file.startsWith('cli/') || placeOf(roomOf(file)) >= placeOf('models')) &&
        // Comments may speak of them.
        compared.test(text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '').replace(/(<<|>>>?) *16\b/g, '')),
    );
    expect(asking.map(({ file }) => file)).toEqual([]);
  });

  it('prints in cli alone', () => {
    const printing = files.filter(({ text }) => /\bconsole\.|process\.std(out|err)\b/.test(text));
    expect(printing.map(({ file }) => file)).toEqual([]);
  });

  it('loads what is slow to load when it is needed: the index alone brings none of it', () => {
    const slow = /^import (?!type\b)[^;]*from '(sharp|onnxruntime-node|linkedom|@observablehq\/plot)'/m;
    const seen = new Set<string>();
    const visit = (file: string): void => {
      const source = files.find((other) => other.file === file);
      if (seen.has(file) || source === undefined) return;
      seen.add(file);
      const values = source.text.matchAll(/^(?:import|export) (?!type\b)[^;]*from '(\.{1,2}\/[^']+)';/gm);
      for (const [, name] of values)
        visit(path.posix.normalize(path.posix.join(path.posix.dirname(file), name!)));
    };
    visit('src/index.ts');
    expect(seen.size).toBeGreaterThan(100);
    expect(
      files.filter(({ file, text }) => seen.has(file) && slow.test(text)).map(({ file }) => file),
    ).toEqual([]);
  });
});
