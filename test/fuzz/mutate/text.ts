/** Text for people: prompts, captions, lists, merges. Pieces that mean something to parsers are put where they hurt. */
import type { Random } from '../random.ts';
import { MAX_INPUT_BYTES } from './bytes.ts';

const PIECES = [
  ...[
    '(',
    ')',
    '((',
    '))',
    ':1.3)',
    ':',
    '\\',
    '\\(',
    '@',
    '|',
    '[',
    ']',
    '{',
    '}',
    ',',
    ';',
    '-*-',
    '-',
    '+',
    '=',
  ],
  ...[
    '<',
    '>',
    '<TOK>',
    '<|endoftext|>',
    '<|startoftext|>',
    '</w>',
    '{}',
    '"',
    "'",
    '`',
    '#',
    '%',
    '&',
    '*',
    '!',
    '~',
  ],
  ...[
    '0',
    '-0',
    '1',
    '-1',
    '1e999',
    '-1e999',
    '0.5',
    '.5',
    '5.',
    'NaN',
    'Infinity',
    '1e-400',
    '99999999999999999999',
  ],
  ...[
    '\n',
    '\r\n',
    '\r',
    '\t',
    ' ',
    '\u00a0',
    '\u2028',
    '\ufeff',
    '\u200b',
    '\u0085',
    '\0',
    '\u001b[2J',
    '\u009b',
    '\u202e',
  ],
  ...['é', 'e\u0301', 'ß', 'İ', 'ŉ', 'Σ', 'ς', '你', '😀', '👩‍👩‍👧', '\u{10ffff}', 'ﬃ', '\ufffd', '\uffff'],
  ...[
    '__proto__',
    'constructor',
    '../../x',
    '/dev/zero',
    'C:\\x',
    'null',
    'true',
    'feather=',
    'weight=',
    'NULL',
  ],
] as const;

/** Long repetitions, as an attack would have them; most are short. */
function repetition(random: Random, words: readonly string[]): string {
  const piece = random.chance(0.3) && words.length > 0 ? random.pick(words) : random.pick(PIECES);
  const limit = random.chance(0.03) ? 40_000 : 200;
  return piece.repeat(random.few(Math.ceil(limit / Math.max(1, piece.length))));
}

/** Another text of nearly the same content. @param words that belong to this kind of text */
export function mutateText(random: Random, text: string, words: readonly string[] = []): string {
  let result = text;
  for (let i = random.few(6); i > 0; i--) {
    const at = random.below(result.length + 1);
    const to = Math.min(result.length, at + random.few(24));
    const [before, part, after] = [result.slice(0, at), result.slice(at, to), result.slice(to)];
    switch (random.below(9)) {
      case 0:
        result = before + after;
        break;
      case 1:
        result = before + part + part + after;
        break;
      case 2:
        result = before + repetition(random, words) + part + after;
        break;
      case 3:
        result = before + random.pick(words.length > 0 ? words : PIECES) + after;
        break;
      case 4:
        result = before + part.replace(/[+-]?\d+(\.\d+)?/, () => random.pick(PIECES)) + after;
        break;
      case 5: {
        const lines = result.split('\n');
        const [one, other] = [random.below(lines.length), random.below(lines.length)];
        lines.splice(one, random.below(2), lines[other]!);
        result = lines.join('\n');
        break;
      }
      case 6:
        result = before + part.toUpperCase() + after;
        break;
      default:
        result = before + random.pick(PIECES) + part + after;
    }
  }
  return result.slice(0, MAX_INPUT_BYTES);
}
