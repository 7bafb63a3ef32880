/** YAML, line by line: other scalars, indentation, tags, anchors, several documents, flow style without end. */
import type { Random } from '../random.ts';
import { mutateText } from './text.ts';

const SCALARS = [
  ...[
    '~',
    'null',
    'yes',
    'no',
    'true',
    '0',
    '-1',
    '1.5',
    '.nan',
    '.inf',
    '-.inf',
    '1e400',
    '0o17',
    '0x1f',
    '1_000',
    '""',
  ],
  ...[
    '!!float 1',
    '!!int "3"',
    '!!binary aGk=',
    '!!str',
    '!!set {a}',
    '!!omap [a: 1]',
    '!x y',
    '!!timestamp 2001-12-14',
  ],
  ...[
    '[]',
    '{}',
    '[1, 2',
    '{a: 1',
    '*a',
    '&a 1',
    '&a [*a]',
    '|',
    '>-',
    '? x',
    '- 1',
    '2001-12-14',
    '"\\ud800"',
    "'",
  ],
  ...[
    '"\\u0000"',
    '123456789012345678901234567890',
    '<<',
    '__proto__',
    '[0,0,1,1]',
    '[-1e9, 1e9, .nan, 2]',
    '/dev/zero',
  ],
] as const;

const LINES = [
  ...[
    '---',
    '...',
    '%YAML 1.1',
    '%TAG ! tag:x:',
    '# x',
    '\t',
    '<<: *a',
    '<<: {a: 1}',
    '__proto__: 1',
    'a: &a [1]',
    'b: *a',
  ],
  ...[
    '? [a, b]',
    ': c',
    '- - - - 1',
    '&a',
    'constructor: {prototype: 1}',
    '? {a: 1}\n: 2',
    '"": ""',
    '~: ~',
    '1: 2',
    '[1]: 2',
  ],
] as const;

function step(random: Random, lines: string[], words: readonly string[]): void {
  const at = random.below(lines.length);
  const line = lines[at] ?? '';
  const indent = /^[\s-]*/.exec(line)![0];
  switch (random.below(11)) {
    case 0:
      lines.splice(at, 1);
      return;
    case 1:
      lines.splice(random.below(lines.length + 1), 0, line);
      return;
    case 2:
      lines[at] = ' '.repeat(random.below(6)) + line.trimStart();
      return;
    case 3:
      lines.splice(at, 0, indent + random.pick(LINES));
      return;
    case 4: {
      const key = words.length > 0 ? random.pick(words) : 'x';
      lines.splice(at, 0, `${indent}${key}: ${random.pick(SCALARS)}`);
      return;
    }
    case 5: {
      const depth = random.few(random.chance(0.1) ? 3000 : 40);
      lines[at] = `${indent}x: ${random.pick(['[', '{a: ']).repeat(depth)}`;
      return;
    }
    case 6: {
      const times = random.few(random.chance(0.05) ? 1500 : 40);
      for (let i = 0; i < times; i++) lines.splice(at, 0, line.replace(/(\w+):/, `$1${i}:`));
      return;
    }
    case 7:
      lines[at] = mutateText(random, line, words);
      return;
    default:
      // What stands after the last colon or dash.
      lines[at] = line.replace(/([:-]\s+)[^:]*$/, (_, lead: string) => lead + random.pick(SCALARS));
  }
}

/** Another document of nearly the same content. @param words keys and values of this kind of file */
export function mutateYaml(random: Random, text: string, words: readonly string[] = []): string {
  const lines = text.split('\n');
  for (let i = random.few(4); i > 0; i--) step(random, lines, words);
  return lines.join('\n');
}
