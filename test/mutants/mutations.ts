/** Small faults that can be planted in a source: each changes one place. Formatting by biome is relied upon. */
import { codeOnly } from './code-only.ts';

export interface Mutation {
  /** From 1. */
  readonly line: number;
  readonly begin: number;
  readonly end: number;
  /** What stands there now, and what is put in its place. */
  readonly from: string;
  readonly to: string;
  readonly operator: string;
}

/** Operators with a blank on either side, and what each becomes: a bound that is off by one, a sign, the other case. */
const SWAPS: Readonly<Record<string, readonly string[]>> = {
  '<': ['<=', '>='],
  '>': ['>=', '<='],
  '<=': ['<', '>'],
  '>=': ['>', '<'],
  '===': ['!=='],
  '!==': ['==='],
  '+': ['-'],
  '-': ['+'],
  '*': ['/'],
  '/': ['*'],
  '%': ['*'],
  '+=': ['-='],
  '-=': ['+='],
  '&&': ['||'],
  '||': ['&&'],
};

/** Every fault that can be planted in a source, in its order. */
export function mutationsOf(source: string): Mutation[] {
  const code = codeOnly(source);
  const found: Mutation[] = [];
  const add = (operator: string, begin: number, end: number, to: string): void => {
    const line = source.slice(0, begin).split('\n').length;
    found.push({ line, begin, end, from: source.slice(begin, end), to, operator });
  };
  for (const { index, 1: token } of code.matchAll(/(?<= )([<>=!+\-*/%&|]{1,3})(?= |\n)/g)) {
    const begin = index;
    // Texts are joined by + as well.
    if (token === '+' && /['"`]\s*$|^\s*['"`]/.test(`${source.slice(0, begin)}`.slice(-20))) continue;
    if (token === '+' && /^\s*['"`]/.test(source.slice(begin + 1, begin + 20))) continue;
    for (const to of SWAPS[token!] ?? []) {
      add(
        /[<>=!]/.test(to) && !/[+-]=/.test(to) ? 'comparison' : 'operator',
        begin,
        begin + token!.length,
        to,
      );
    }
  }
  for (const { index, 0: digits } of code.matchAll(/(?<![\w.$])\d+(?![\w.])/g)) {
    add('number', index, index + digits.length, String(BigInt(digits) + 1n));
  }
  for (const { index, 0: word } of code.matchAll(/(?<=[=(,:?] |\()(true|false)\b/g)) {
    add('default', index, index + word.length, word === 'true' ? 'false' : 'true');
  }
  for (const { index, 0: head } of code.matchAll(/\bif \(/g)) {
    const begin = index + head.length;
    const end = closing(code, begin);
    if (end !== null) add('condition', begin, end, `!(${source.slice(begin, end)})`);
  }
  for (const { index, 1: statement } of code.matchAll(/^ +((?:await )?[\w#][\w.#!?[\]]*\([^\n]*\);)$/gm)) {
    if (/^(return|throw|super|if|for|while|switch)\b/.test(statement!)) continue;
    const begin = code.indexOf(statement!, index);
    if (balanced(statement!)) add('dropped call', begin, begin + statement!.length, ';');
  }
  for (const { index, 0: head } of code.matchAll(/\): (?:void|Promise<void>) (?:=> )?\{/g)) {
    const end = index + head.length;
    add('early return', end, end, ' return;');
  }
  return found.sort((a, b) => a.begin - b.begin || a.to.localeCompare(b.to));
}

/** The source with one fault. */
export function planted(source: string, { begin, end, to }: Mutation): string {
  return source.slice(0, begin) + to + source.slice(end);
}

/** Where the bracket closes that was opened before `begin`; null if it does not. */
function closing(code: string, begin: number): number | null {
  let depth = 1;
  for (let i = begin; i < code.length; i++) {
    if (code[i] === '(') depth++;
    if (code[i] === ')' && --depth === 0) return i;
  }
  return null;
}

const balanced = (text: string): boolean => text.split('(').length === text.split(')').length;
