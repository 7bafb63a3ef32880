/**
 * Python's idea of equal dictionary keys and set members: `1`, `1.0` and `True` are one key, tuples compare by
 * content. Contents are numbered once per object, so that a tuple of tuples costs what it holds itself, however often
 * its parts are shared.
 */
import { latin1Text } from '../io/bytes.ts';
import { COST, extentOf } from './pickle-cost.ts';
import { type Fail, isPickleObject, isTuple, type PickleSet, type PickleValue } from './pickle-value.ts';

/** Tuples in tuples of keys. Real files have one level. */
const MAX_KEY_DEPTH = 8;

interface Identity {
  /** Equal exactly for equal keys. */
  readonly id: number;
  /** Levels of tuples. */
  readonly height: number;
}

export class PythonKeys {
  readonly #charge: (bytes: number) => void;
  /** Number of each content met so far. */
  readonly #ids = new Map<string, number>();
  readonly #known = new WeakMap<object, Identity>();
  /** The first spelling of each key that is an object here, per dictionary. */
  readonly #residents = new WeakMap<Map<PickleValue, PickleValue>, Map<number, PickleValue>>();

  /** @param charge is told what each comparison costs, in bytes; it throws when that is too much */
  constructor(charge: (bytes: number) => void) {
    this.#charge = charge;
  }

  /** Set `dict[key] = value`. The first spelling of a key stays. */
  set(dict: Map<PickleValue, PickleValue>, key: PickleValue, value: PickleValue, fail: Fail): void {
    // Two long strings of one hash are compared character by character, each time.
    this.#charge(COST.entry + extentOf(key));
    dict.set(this.#resident(dict, key, fail), value);
  }

  /** A set of the given members, equal ones once. */
  setOf(items: readonly PickleValue[], fail: Fail): PickleSet {
    this.#charge(COST.container);
    if (items.length === 0) return { kind: 'set', items: [] };
    const members = new Map<PickleValue, PickleValue>();
    for (const item of items) this.set(members, item, null, fail);
    return { kind: 'set', items: [...members.keys()] };
  }

  #resident(dict: Map<PickleValue, PickleValue>, key: PickleValue, fail: Fail): PickleValue {
    if (typeof key === 'string') return key;
    if (typeof key === 'boolean') return dict.has(Number(key)) ? Number(key) : key;
    if (key === 0 || key === 1) return dict.has(key === 1) ? key === 1 : key;
    if (typeof key !== 'object' || key === null) return key;
    const { id } = this.#identity(key, fail, 0);
    let residents = this.#residents.get(dict);
    if (residents === undefined) {
      this.#charge(COST.dict);
      residents = new Map();
      this.#residents.set(dict, residents);
    }
    const resident = residents.get(id);
    if (resident !== undefined) return resident;
    residents.set(id, key);
    return key;
  }

  #identity(key: PickleValue, fail: Fail, depth: number): Identity {
    if (typeof key !== 'object' || key === null) {
      return { id: this.#numbered(typeof key === 'string' ? `"${key}` : scalarContent(key)), height: 0 };
    }
    let identity = this.#known.get(key);
    if (identity === undefined) {
      if (depth >= MAX_KEY_DEPTH) throw tooDeep(fail);
      identity = this.#newIdentity(key, fail, depth);
      this.#known.set(key, identity);
    }
    if (depth + identity.height > MAX_KEY_DEPTH) throw tooDeep(fail);
    return identity;
  }

  #newIdentity(key: object & PickleValue, fail: Fail, depth: number): Identity {
    if (key instanceof Uint8Array) {
      return { id: this.#numbered(`b${latin1Text(key)}`), height: 0 };
    }
    if (isTuple(key)) {
      const ids: number[] = [];
      let height = 0;
      for (const item of key.items) {
        const part = this.#identity(item, fail, depth + 1);
        ids.push(part.id);
        height = Math.max(height, part.height);
      }
      return { id: this.#numbered(`(${ids.join()})`), height: height + 1 };
    }
    if (isPickleObject(key) && (key.kind === 'dtype' || key.kind === 'reference') && 'name' in key) {
      return { id: this.#numbered(`${key.kind}:${key.name}`), height: 0 };
    }
    // torch.Size is a tuple of integers, and equal to one.
    if (isPickleObject(key) && key.kind === 'size' && 'sizes' in key) {
      const ids = (key.sizes as readonly number[]).map((size) => this.#numbered(scalarContent(size)));
      return { id: this.#numbered(`(${ids.join()})`), height: 1 };
    }
    throw fail('expected a hashable dictionary key, got a container or a tensor');
  }

  #numbered(content: string): number {
    this.#charge(content.length);
    let id = this.#ids.get(content);
    if (id === undefined) {
      this.#charge(COST.entry);
      id = this.#ids.size;
      this.#ids.set(content, id);
    }
    return id;
  }
}

/** Booleans are the numbers 0 and 1. */
function scalarContent(key: Exclude<PickleValue, string | object> | null): string {
  return key === null ? 'None' : `#${typeof key === 'boolean' ? Number(key) : key}`;
}

function tooDeep(fail: Fail): Error {
  return fail('expected simple dictionary keys, got deeply nested tuples');
}
