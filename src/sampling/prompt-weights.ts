/** Prompt weighting: `a (red:1.3) hat`. Parentheses without a number stay text, so ordinary prompts mean what they say. */
import { UsageError } from '../errors.ts';

/** A stretch of a prompt and how much its tokens count; 1 is as written. */
export interface WeightedText {
  readonly text: string;
  readonly weight: number;
}

/** `)` with a number before it, at the start of what follows an inner text. */
const closing = /^:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)/;

/**
 * Cut a prompt at its weights. Weights nest and multiply; `\(` and `\)` are plain parentheses.
 * @returns at least one stretch; one of weight 1 for a prompt without weights
 * @throws {UsageError} for a weight outside [-10, 10]
 */
export function parsePromptWeights(prompt: string): WeightedText[] {
  const pieces = cut(prompt, 1).filter(({ text }) => text !== '');
  const merged: WeightedText[] = [];
  for (const piece of pieces) {
    const last = merged.at(-1);
    if (last !== undefined && last.weight === piece.weight) {
      merged[merged.length - 1] = { text: last.text + piece.text, weight: piece.weight };
    } else merged.push(piece);
  }
  return merged.length > 0 ? merged : [{ text: '', weight: 1 }];
}

function cut(text: string, weight: number): WeightedText[] {
  const pieces: WeightedText[] = [];
  let plain = '';
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!;
    if (char === '\\' && (text[i + 1] === '(' || text[i + 1] === ')')) {
      plain += text[++i]!;
      continue;
    }
    const group = char === '(' ? weightedGroup(text, i) : null;
    if (group === null) {
      plain += char;
      continue;
    }
    if (Math.abs(group.weight) > 10) {
      throw new UsageError(
        `prompt weight in "${text.slice(i, group.end)}": expected -10 … 10, got ${group.weight}`,
      );
    }
    pieces.push({ text: plain, weight }, ...cut(group.inner, weight * group.weight));
    plain = '';
    i = group.end - 1;
  }
  return [...pieces, { text: plain, weight }];
}

/** The group that opens at `start`, if it closes with a number. */
function weightedGroup(text: string, start: number): { inner: string; weight: number; end: number } | null {
  let depth = 0;
  for (let i = start + 1; i < text.length; i++) {
    const char = text[i]!;
    if (char === '\\') {
      i++;
      continue;
    }
    if (char === '(') depth++;
    if (char === ')' && depth-- === 0) return null;
    const match = depth === 0 && char === ':' ? closing.exec(text.slice(i)) : null;
    if (match !== null) {
      return { inner: text.slice(start + 1, i), weight: Number(match[1]), end: i + match[0].length };
    }
  }
  return null;
}
