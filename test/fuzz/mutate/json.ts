/** JSON as a tree in which keys may repeat and values may be text that is no JSON: replaced, moved, nested, repeated. */
import type { Random } from '../random.ts';
import { mutateText } from './text.ts';

export type Json =
  | { readonly kind: 'object'; readonly members: [key: string, value: Json][] }
  | { readonly kind: 'array'; readonly items: Json[] }
  | { readonly kind: 'raw'; text: string };

const raw = (text: string): Json => ({ kind: 'raw', text });

/** Values that nobody expects; some are no JSON at all. */
const VALUES = [
  'null',
  'true',
  'false',
  '0',
  '-0',
  '-1',
  '1',
  '2',
  '0.5',
  '1.5',
  '1e308',
  '1e999',
  '-1e999',
  'NaN',
  'Infinity',
  '-Infinity',
  '65536',
  '2147483648',
  '4294967296',
  '9007199254740993',
  '1e21',
  '123456789012345678901234567890123456789012345678901234567890',
  '""',
  '"x"',
  '"\\u0000"',
  '"\\ud800"',
  '"\\u001b[2J"',
  '"__proto__"',
  '"../../../etc/passwd"',
  '"/dev/zero"',
  '"/"',
  '"."',
  '"NaN"',
  '"1e999"',
  '"\\u202e"',
  '[]',
  '{}',
  '[[]]',
  '[null]',
  '[1,2,3]',
  '{"":null}',
  '{"__proto__":{"x":1}}',
  '{"constructor":1,"toString":2,"length":-1}',
] as const;

const KEYS = [
  '',
  '__proto__',
  'constructor',
  'toString',
  'length',
  'hasOwnProperty',
  '0',
  'a.b',
  '\u0000',
  '\u2028',
];

/** @throws {SyntaxError} if the text is no JSON */
export function parseJson(text: string): Json {
  return treeOf(JSON.parse(text));
}

/** Deeper values are left as they are: seeds may hold what an earlier mutation nested. */
const MAX_TREE_DEPTH = 500;

function treeOf(value: unknown, depth = 0): Json {
  if (depth > MAX_TREE_DEPTH) return raw('0');
  if (Array.isArray(value)) return { kind: 'array', items: value.map((item) => treeOf(item, depth + 1)) };
  if (value !== null && typeof value === 'object') {
    return {
      kind: 'object',
      members: Object.entries(value).map(([key, item]) => [key, treeOf(item, depth + 1)]),
    };
  }
  return raw(JSON.stringify(value));
}

/** The tree as text. */
export function printJson(node: Json): string {
  if (node.kind === 'raw') return node.text;
  if (node.kind === 'array') return `[${node.items.map(printJson).join(',')}]`;
  return `{${node.members.map(([key, value]) => `${JSON.stringify(key)}:${printJson(value)}`).join(',')}}`;
}

/** A place in the tree where a value stands. */
interface Slot {
  get(): Json;
  set(value: Json): void;
  remove(): void;
  /** Put another value beside it, in an object under the same key or another. */
  add(value: Json, key?: string): void;
  rename(key: string): void;
}

/** Every place, the root's not included. */
function slots(node: Json, into: Slot[] = []): Slot[] {
  if (node.kind === 'raw') return into;
  if (node.kind === 'array') {
    const { items } = node;
    items.forEach((item, i) => {
      into.push({
        get: () => items[i]!,
        set: (value) => {
          items[i] = value;
        },
        remove: () => items.splice(i, 1),
        add: (value) => items.splice(i, 0, value),
        rename: () => undefined,
      });
      slots(item, into);
    });
    return into;
  }
  const { members } = node;
  members.forEach((member, i) => {
    into.push({
      get: () => member[1],
      set: (value) => {
        member[1] = value;
      },
      remove: () => members.splice(i, 1),
      add: (value, key = member[0]) => members.splice(i, 0, [key, value]),
      rename: (key) => {
        member[0] = key;
      },
    });
    slots(member[1], into);
  });
  return into;
}

const copy = (node: Json): Json =>
  node.kind === 'raw'
    ? { ...node }
    : node.kind === 'array'
      ? { kind: 'array', items: node.items.map(copy) }
      : { kind: 'object', members: node.members.map(([key, value]) => [key, copy(value)]) };

/** The number, otherwise. */
function tweaked(random: Random, text: string): string {
  const value = Number(text);
  const others = [
    -value,
    value + 1,
    value - 1,
    value * 2,
    value * 1000,
    value / 3,
    value * 1e12,
    Math.round(value),
  ];
  const other = random.pick(others);
  return Number.isFinite(other) ? String(other) : '1e999';
}

/** The content of a string, otherwise; JSON inside of it as JSON. */
function changedString(random: Random, text: string, words: readonly string[]): string {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    return text;
  }
  if (typeof content !== 'string') return text;
  if (/^[[{]/.test(content) && random.chance(0.85)) {
    try {
      return JSON.stringify(mutateJson(random, content, words));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  return JSON.stringify(mutateText(random, content, words));
}

function nested(random: Random): string {
  const depth = random.few(6000);
  const [open, close] = random.pick([
    ['[', ']'],
    ['{"a":', '}'],
  ] as const);
  return `${open.repeat(depth)}0${close.repeat(depth)}`;
}

function step(random: Random, all: readonly Slot[], words: readonly string[]): void {
  const slot = random.pick(all);
  const value = slot.get();
  switch (random.below(14)) {
    case 0:
    case 1:
    case 2:
      slot.set(raw(random.pick(VALUES)));
      return;
    case 3:
      slot.remove();
      return;
    case 4:
      slot.add(random.chance(0.5) ? copy(value) : raw(random.pick(VALUES)));
      return;
    case 5:
      slot.rename(random.chance(0.6) ? random.pick(KEYS) : words.length > 0 ? random.pick(words) : 'x');
      return;
    case 6:
      slot.set(copy(random.pick(all).get()));
      return;
    case 7:
      slot.set({ kind: 'array', items: [value] });
      return;
    case 8:
      slot.set({ kind: 'object', members: [[random.pick(KEYS), value]] });
      return;
    case 9:
      slot.set(raw(random.chance(0.2) ? nested(random) : random.pick(VALUES)));
      return;
    case 10: {
      const times = random.few(300);
      for (let i = 0; i < times; i++) slot.add(copy(value), random.chance(0.5) ? `k${i}` : undefined);
      return;
    }
    case 11:
      slot.add(raw(random.pick(VALUES)), words.length > 0 ? random.pick(words) : random.pick(KEYS));
      return;
    default:
      if (value.kind !== 'raw') slot.set(copy(random.pick(all).get()));
      else if (value.text.startsWith('"')) value.text = changedString(random, value.text, words);
      else if (/^-?\d/.test(value.text)) value.text = tweaked(random, value.text);
      else value.text = random.pick(VALUES);
  }
}

/** Trees as parsed, by their text: seeds are few. */
const parsed = new Map<string, Json>();

/**
 * Another text of nearly the same content.
 * @param words keys and values of this kind of file
 * @throws {SyntaxError} if the text is no JSON
 */
export function mutateJson(random: Random, text: string, words: readonly string[] = []): string {
  let tree = parsed.get(text);
  if (tree === undefined) {
    tree = parseJson(text);
    if (parsed.size < 500) parsed.set(text, tree);
  }
  // The root stands in a list, so that it can be replaced like everything else.
  const root: Json = { kind: 'array', items: [copy(tree)] };
  for (let i = random.few(4); i > 0; i--) {
    const all = slots(root);
    if (all.length === 0) break;
    // The root itself seldom.
    step(random, all.length > 1 && random.chance(0.97) ? all.slice(1) : all, words);
  }
  return root.items.map(printJson).join(random.pick(['', ' ', ',']));
}
