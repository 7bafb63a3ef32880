/** Prompt weighting: `a (red:1.3) hat`. Parentheses without a number stay text, so ordinary prompts mean what they say. */
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';

/** A stretch of a prompt and how much its tokens count; 1 is as written. */
export interface WeightedText {
  readonly text: string;
  readonly weight: number;
}

/** Each weight lies within ± this, as web UIs have it at most. */
const MAX_WEIGHT = 10;
/** And their product where they nest; what is beyond turns features into noise, and in the end into infinity. */
const MAX_NESTED_WEIGHT = 1000;

/** A group: its parentheses are at `open` and `end - 1`, its text ends at `colon`. */
interface Group {
  readonly colon: number;
  readonly end: number;
  readonly weight: number;
}

/**
 * Cut a prompt at its weights. Weights nest and multiply; `\(` and `\)` are plain parentheses. Time is linear in the
 * prompt's length.
 * @returns at least one stretch; one of weight 1 for a prompt without weights
 * @throws {UsageError} for a weight outside [-10, 10], or nested ones whose product is outside [-1000, 1000]
 */
export function parsePromptWeights(prompt: string): WeightedText[] {
  const groups = weightedGroups(prompt);
  const pieces: WeightedText[] = [];
  const around: { readonly group: Group; readonly outside: number }[] = [];
  let weight = 1;
  let plain = '';
  const turnTo = (next: number): void => {
    const last = pieces.at(-1);
    if (last !== undefined && last.weight === weight) {
      pieces[pieces.length - 1] = { text: last.text + plain, weight };
    } else if (plain !== '') pieces.push({ text: plain, weight });
    plain = '';
    weight = next;
  };
  for (let i = 0; i < prompt.length; i++) {
    const inside = around.at(-1);
    const group = groups.get(i);
    if (group !== undefined) {
      around.push({ group, outside: weight });
      turnTo(weight * group.weight);
      if (Math.abs(weight) > MAX_NESTED_WEIGHT) {
        throw new UsageError(
          `prompt weights around "${excerpt(prompt.slice(i, group.end))}": expected a product of -${MAX_NESTED_WEIGHT} … ${MAX_NESTED_WEIGHT}, got ${weight}`,
        );
      }
    } else if (i === inside?.group.colon) {
      around.pop();
      turnTo(inside.outside);
      i = inside.group.end - 1;
    } else {
      if (escapesParenthesis(prompt, i)) i++;
      plain += prompt[i]!;
    }
  }
  turnTo(1);
  return pieces.length > 0 ? pieces : [{ text: '', weight: 1 }];
}

function escapesParenthesis(text: string, at: number): boolean {
  return text[at] === '\\' && (text[at + 1] === '(' || text[at + 1] === ')');
}

/** What stands between a group's last colon and its end. */
const number = /^\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*$/;

/** Parentheses that end with `:number`, by the place of the opening one. */
function weightedGroups(text: string): Map<number, Group> {
  const groups = new Map<number, Group>();
  const open: number[] = [];
  // The last colon since any parenthesis, so that no stretch of the text is looked at twice.
  let colon = -1;
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!;
    if (char === '\\') i++;
    else if (char === ':') colon = i;
    else if (char === '(') {
      open.push(i);
      colon = -1;
    } else if (char === ')') {
      const start = open.pop();
      const match = start === undefined || colon < 0 ? null : number.exec(text.slice(colon + 1, i));
      if (match !== null) {
        const weight = Number(match[1]);
        if (Math.abs(weight) > MAX_WEIGHT) {
          throw new UsageError(
            `prompt weight in "${excerpt(text.slice(start!, i + 1))}": expected -${MAX_WEIGHT} … ${MAX_WEIGHT}, got ${weight}`,
          );
        }
        groups.set(start!, { colon, end: i + 1, weight });
      }
      colon = -1;
    }
  }
  return groups;
}
