/** The documents keep their promises: links lead somewhere, command lines parse, programs compile against the entry. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import yargs, { type Argv, type Options } from 'yargs';
import { loadAllCommands } from '../cli/commands/index.ts';
import { globalOptions } from '../cli/options.ts';
import * as library from '../src/index.ts';
import { packageRoot } from '../src/package-root.ts';

const root = packageRoot();
const documents = ['README.md', ...readdirSync(path.join(root, 'docs')).map((name) => `docs/${name}`)].filter(
  (name) => name.endsWith('.md'),
);
const textOf = (document: string): string => readFileSync(path.join(root, document), 'utf8');

/** Fenced blocks and blocks indented by four spaces, with lines that end in a backslash joined. */
function codeLines(text: string): string[] {
  const lines: string[] = [];
  let fenced = false;
  let carried = '';
  for (const line of text.split('\n')) {
    if (line.startsWith('```')) fenced = !fenced;
    else if (fenced || /^ {4}\S/.test(line) || carried !== '') {
      const whole = carried + line.trim();
      carried = whole.endsWith('\\') ? whole.slice(0, -1) : '';
      if (carried === '') lines.push(whole);
    }
  }
  return lines;
}

/** Command lines of our programs: `fuse …` and `edlora …`, behind `npx`, `&&` and settings of variables or not. */
function commandLines(text: string): string[] {
  return codeLines(text)
    .flatMap((line) => line.replace(/^\$ /, '').split(' && '))
    .map((line) => line.trim().replace(/^npx /, ''))
    .filter((line) => /^(fuse --|edlora [a-z-])/.test(line));
}

/** Words as a shell splits them, for lines with plain and double-quoted words. */
function shellWords(line: string): string[] {
  const words = line.replace(/\s+#.*$/, '').matchAll(/"([^"]*)"|(\S+)/g);
  return [...words].map(([, quoted, plain]) => quoted ?? plain!);
}

/** Parse as the program does, without running anything. @throws {Error} as yargs words it */
async function parse(words: readonly string[]): Promise<void> {
  let parser: Argv = yargs()
    .options(globalOptions as Record<string, Options>)
    .strict()
    .demandCommand(1)
    .exitProcess(false)
    .fail((message: string | undefined, error: Error | undefined) => {
      throw error ?? new Error(message);
    });
  for (const { usage, description, options, positionals = {} } of await loadAllCommands()) {
    parser = parser.command(
      usage,
      description,
      (builder) => {
        let built: Argv = builder.options(options);
        for (const [name, positional] of Object.entries(positionals)) {
          built = built.positional(name, positional as never);
        }
        return built;
      },
      () => {},
    );
  }
  await parser.parseAsync([...words]);
}

describe.each(documents)('%s', (document) => {
  const text = textOf(document);

  it('links to files and headings that exist', () => {
    const dead: string[] = [];
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const [file = '', heading] = target!.split('#');
      const place = file === '' ? document : path.join(path.dirname(document), file);
      if (!existsSync(path.join(root, place))) dead.push(target!);
      else if (heading !== undefined && !headings(textOf(place)).includes(heading)) dead.push(target!);
    }
    expect(dead).toEqual([]);
  });

  it('shows command lines that parse', async () => {
    const wrong: string[] = [];
    for (const line of commandLines(text)) {
      const words = shellWords(line);
      await parse(words[0] === 'edlora' ? words.slice(1) : words).catch((error: Error) => {
        wrong.push(`${line}: ${error.message}`);
      });
    }
    expect(wrong).toEqual([]);
  });

  it('names shipped files that exist', () => {
    const named = codeLines(text).flatMap((line) => line.match(/\bfixtures\/[\w./-]*\w/g) ?? []);
    expect(named.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });

  it('runs npm scripts that exist', () => {
    const { scripts } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
    const named = [...text.matchAll(/\bnpm run (?:-s )?([\w:-]+)/g)].map(([, name]) => name!);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });

  it('imports what the package exports', () => {
    const imports = [...text.matchAll(/import \{([^}]*)\} from 'edlora'/g)];
    const named = imports.flatMap(([, names]) => names!.split(',').map((name) => name.trim()));
    const values = named.filter((name) => name !== '' && !name.startsWith('type '));
    expect(values.filter((name) => !(name in library))).toEqual([]);
  });
});

it('finds command lines in both kinds of blocks', () => {
  const text = [
    'Say `fuse --nothing` in passing.',
    '```sh',
    'npm ci && npx fuse --concepts a.pth \\',
    '  "b c.pth"  # two',
    '```',
    '',
    '    edlora inspect a.pth',
  ].join('\n');
  expect(commandLines(text).map(shellWords)).toEqual([
    ['fuse', '--concepts', 'a.pth', 'b c.pth'],
    ['edlora', 'inspect', 'a.pth'],
  ]);
});

it('refuses command lines with unknown options', async () => {
  await expect(parse(['fuse', '--concept-files', 'a.pth'])).rejects.toThrow('Unknown argument');
  await expect(parse(['fusee', '--concepts', 'a.pth'])).rejects.toThrow();
});

/** Anchors as GitHub makes them. */
function headings(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replaceAll(' ', '-'),
  );
}
