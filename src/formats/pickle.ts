/**
 * A pickle machine that builds plain containers and scalars and nothing else. Names of classes and functions,
 * calls and persistent ids go to a host, which knows an allow-list; opcodes that could reach further (INST, OBJ,
 * extension registry, out-of-band buffers) are refused. Iterative: nesting costs no call stack.
 * Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
 */
import { inOneGo, type Steps } from '../pace.ts';
import type { ByteReader } from './byte-reader.ts';
import { COST, extentOf, PickleCost } from './pickle-cost.ts';
import type { PickleHost } from './pickle-host.ts';
import { MAX_LINE_BYTES, PickleLiterals } from './pickle-literals.ts';
import {
  describe,
  type Fail,
  isSet,
  isTuple,
  type PickleSet,
  type PickleTuple,
  type PickleValue,
  tupleOf,
} from './pickle-value.ts';
import { PythonKeys } from './python-keys.ts';

/** No protocol later than 5 exists. */
const MAX_PROTOCOL = 5;
/** A tensor takes about 45, the largest checkpoints with optimiser states some 400,000; bounds time. */
const MAX_OPERATIONS = 1_500_000;
/** Operations between two steps. */
const STEP_OPERATIONS = 1 << 12;

/**
 * Run one pickle from the reader's position to its STOP.
 * @param fileBytes size of the file that the pickle comes from, where that is less than the pickle (which was deflated)
 * @throws {FormatError} for anything not allowed, malformed or over the limits; nothing is executed
 */
export function unpickle(
  reader: ByteReader,
  host: PickleHost,
  fileBytes = Number.POSITIVE_INFINITY,
): PickleValue {
  return inOneGo(unpickleSteps(reader, host, fileBytes));
}

/** `unpickle` in steps. */
export function unpickleSteps(
  reader: ByteReader,
  host: PickleHost,
  fileBytes = Number.POSITIVE_INFINITY,
): Steps<PickleValue> {
  return new PickleMachine(reader, host, fileBytes).run();
}

class PickleMachine {
  readonly #reader: ByteReader;
  readonly #host: PickleHost;
  readonly #fail: Fail;
  readonly #stack: PickleValue[] = [];
  /** Stack heights at the open MARKs. Nothing below the last one may be popped. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, PickleValue>();
  readonly #cost: PickleCost;
  readonly #literals: PickleLiterals;
  readonly #keys: PythonKeys;
  readonly #members = new WeakMap<PickleSet, Map<PickleValue, PickleValue>>();

  constructor(reader: ByteReader, host: PickleHost, fileBytes: number) {
    this.#reader = reader;
    this.#host = host;
    const cost = new PickleCost(reader, fileBytes);
    this.#cost = cost;
    this.#literals = new PickleLiterals(reader, cost);
    this.#keys = new PythonKeys((bytes) => cost.charge(bytes));
    this.#fail = (message) => reader.error(message);
  }

  *run(): Steps<PickleValue> {
    for (let operations = 0; operations < MAX_OPERATIONS; operations += STEP_OPERATIONS) {
      if (this.#stopsWithin(Math.min(STEP_OPERATIONS, MAX_OPERATIONS - operations))) return this.#result();
      yield;
    }
    throw this.#fail(`expected at most ${MAX_OPERATIONS} operations, got more`);
  }

  /** Run some operations. @returns whether STOP was among them: it is the last one then */
  #stopsWithin(operations: number): boolean {
    for (let i = 0; i < operations; i++) {
      const code = this.#reader.u8();
      this.#cost.charge(COST.operation);
      if (code === 0x2e) return true;
      const value = this.#made(code);
      if (value === undefined) this.#change(code);
      else this.#stack.push(value);
    }
    return false;
  }

  #result(): PickleValue {
    const result = this.#pop();
    if (this.#stack.length > 0 || this.#marks.length > 0) {
      throw this.#fail(`expected an empty stack at STOP, got ${this.#stack.length} values left over`);
    }
    return result;
  }

  #pop(): PickleValue {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0))
      throw this.#fail('pickle takes a value from an empty stack');
    return this.#stack.pop()!;
  }

  #top(): PickleValue {
    const value = this.#pop();
    this.#stack.push(value);
    return value;
  }

  /** The values above the last MARK, which is removed with them. */
  #popToMark(): PickleValue[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw this.#fail('pickle closes a MARK that was never set');
    return this.#stack.splice(mark);
  }

  /** The value of an opcode that only makes one; `undefined` for all others. */
  #made(code: number): PickleValue | undefined {
    const reader = this.#reader;
    const literals = this.#literals;
    switch (code) {
      case 0x4e: // NONE
        return null;
      case 0x88: // NEWTRUE
        return true;
      case 0x89: // NEWFALSE
        return false;
      case 0x4b: // BININT1
        return reader.u8();
      case 0x4d: // BININT2
        return reader.u16();
      case 0x4a: // BININT
        return reader.i32();
      case 0x8a: // LONG1
        return literals.integer(reader.u8());
      case 0x8b: // LONG4
        return literals.integer(reader.i32());
      case 0x49: // INT
        return literals.integerLine();
      case 0x4c: // LONG
        return literals.longLine();
      case 0x46: // FLOAT
        return literals.floatLine();
      case 0x47: // BINFLOAT
        return reader.f64BigEndian();
      case 0x55: // SHORT_BINSTRING, a Python 2 str
      case 0x8c: // SHORT_BINUNICODE
        return literals.text(reader.u8());
      case 0x54: // BINSTRING, a Python 2 str
      case 0x58: // BINUNICODE
        return literals.text(reader.u32());
      case 0x8d: // BINUNICODE8
        return literals.text(Number(reader.u64()));
      case 0x43: // SHORT_BINBYTES
        return literals.blob(reader.u8());
      case 0x42: // BINBYTES
        return literals.blob(reader.u32());
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        return literals.blob(Number(reader.u64()));
      case 0x29: // EMPTY_TUPLE
        return tupleOf(this.#container([]));
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.#tuple(code - 0x84);
      case 0x74: // TUPLE
        return tupleOf(this.#container(this.#popToMark()));
      case 0x5d: // EMPTY_LIST
        return this.#container([]);
      case 0x6c: // LIST
        return this.#container(this.#popToMark());
      case 0x7d: // EMPTY_DICT
        return this.#emptyDict();
      case 0x64: // DICT
        return this.#setItems(this.#emptyDict(), this.#popToMark());
      case 0x8f: // EMPTY_SET
        return this.#keys.setOf([], this.#fail);
      case 0x91: // FROZENSET
        return this.#keys.setOf(this.#popToMark(), this.#fail);
      case 0x32: // DUP
        return this.#top();
      case 0x68: // BINGET
        return this.#recall(reader.u8());
      case 0x6a: // LONG_BINGET
        return this.#recall(reader.u32());
      case 0x67: // GET
        return this.#recall(literals.indexLine());
      case 0x63: // GLOBAL
        return this.#host.global(`${literals.line()}.${literals.line()}`, this.#fail);
      case 0x93: // STACK_GLOBAL
        return this.#stackGlobal();
      case 0x52: // REDUCE
        return this.#reduce();
      case 0x81: // NEWOBJ
        return this.#newObject();
      case 0x51: // BINPERSID
        return this.#host.persistent(this.#pop(), this.#fail);
      default:
        return undefined;
    }
  }

  /** Opcodes that change what is there already. */
  #change(code: number): void {
    const reader = this.#reader;
    switch (code) {
      case 0x80: // PROTO
        this.#protocol(reader.u8());
        break;
      case 0x95: // FRAME
        this.#frame(reader.u64());
        break;
      case 0x28: // MARK
        this.#marks.push(this.#stack.length);
        break;
      case 0x30: // POP
        // As in Python, a POP right after a MARK removes the MARK.
        if (this.#marks.at(-1) === this.#stack.length) this.#marks.pop();
        else this.#pop();
        break;
      case 0x31: // POP_MARK
        this.#popToMark();
        break;
      case 0x61: // APPEND
        this.#append([this.#pop()]);
        break;
      case 0x65: // APPENDS
        this.#append(this.#popToMark());
        break;
      case 0x73: {
        // SETITEM
        const value = this.#pop();
        const key = this.#pop();
        this.#setItems(this.#top(), [key, value]);
        break;
      }
      case 0x75: {
        // SETITEMS
        const items = this.#popToMark();
        this.#setItems(this.#top(), items);
        break;
      }
      case 0x90: // ADDITEMS
        this.#addItems(this.#popToMark());
        break;
      case 0x71: // BINPUT
        this.#remember(reader.u8());
        break;
      case 0x72: // LONG_BINPUT
        this.#remember(reader.u32());
        break;
      case 0x70: // PUT
        this.#remember(this.#literals.indexLine());
        break;
      case 0x94: // MEMOIZE
        this.#remember(this.#memo.size);
        break;
      case 0x62: // BUILD
        this.#build();
        break;
      default:
        throw this.#fail(
          `pickle opcode 0x${code.toString(16).padStart(2, '0')} is not allowed: unknown, or it could reach beyond plain data`,
        );
    }
  }

  #protocol(version: number): void {
    if (version > MAX_PROTOCOL)
      throw this.#fail(`expected pickle protocol 0 to ${MAX_PROTOCOL}, got ${version}`);
  }

  #frame(length: bigint): void {
    if (length > BigInt(this.#reader.remaining)) {
      throw this.#fail(`expected a frame of at most ${this.#reader.remaining} bytes, got ${length}`);
    }
  }

  #remember(index: number): void {
    this.#cost.charge(COST.memo);
    this.#memo.set(index, this.#top());
  }

  #recall(index: number): PickleValue {
    const value = this.#memo.get(index);
    if (value === undefined) throw this.#fail(`pickle recalls memo entry ${index}, which was never written`);
    return value;
  }

  #tuple(length: number): PickleTuple {
    const items: PickleValue[] = [];
    for (let i = 0; i < length; i++) items.push(this.#pop());
    return tupleOf(this.#container(items.reverse()));
  }

  /** The same items, charged as a container of their own. */
  #container<T extends readonly PickleValue[]>(items: T): T {
    this.#cost.charge(COST.container + items.length * COST.item);
    return items;
  }

  #emptyDict(): Map<PickleValue, PickleValue> {
    this.#cost.charge(COST.dict);
    return new Map();
  }

  #append(items: readonly PickleValue[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) throw this.#fail('expected a list to append to, got something else');
    for (const item of items) list.push(item);
  }

  #setItems(dict: PickleValue, items: readonly PickleValue[]): PickleValue {
    if (!(dict instanceof Map)) throw this.#fail('expected a dict to set items of, got something else');
    if (items.length % 2 !== 0)
      throw this.#fail('expected pairs of key and value, got an odd number of items');
    for (let i = 0; i < items.length; i += 2) this.#keys.set(dict, items[i]!, items[i + 1]!, this.#fail);
    return dict;
  }

  #addItems(items: readonly PickleValue[]): void {
    const set = this.#top();
    if (!isSet(set)) throw this.#fail('expected a set to add to, got something else');
    let members = this.#members.get(set);
    if (members === undefined) {
      members = this.#emptyDict();
      for (const item of set.items) this.#keys.set(members, item, null, this.#fail);
      this.#members.set(set, members);
    }
    for (const item of items) {
      const before = members.size;
      this.#keys.set(members, item, null, this.#fail);
      if (members.size > before) set.items.push(item);
    }
  }

  #stackGlobal(): PickleValue {
    const name = this.#pop();
    const module = this.#pop();
    if (typeof name !== 'string' || typeof module !== 'string') {
      throw this.#fail(`expected module and name as strings, got ${describe(module)} and ${describe(name)}`);
    }
    if (Math.max(name.length, module.length) > MAX_LINE_BYTES) {
      throw this.#fail(
        `expected module and name of at most ${MAX_LINE_BYTES} characters, got ${module.length} and ${name.length}`,
      );
    }
    return this.#host.global(`${module}.${name}`, this.#fail);
  }

  #arguments(): readonly PickleValue[] {
    const args = this.#pop();
    if (!isTuple(args)) throw this.#fail('expected a tuple of arguments, got something else');
    // The memo hands out the same list or string any number of times, and each call checks and copies it.
    for (const arg of args.items) this.#cost.charge(COST.item + 3 * extentOf(arg));
    return args.items;
  }

  #reduce(): PickleValue {
    const args = this.#arguments();
    this.#cost.charge(COST.dict);
    return this.#host.call(this.#pop(), args, this.#fail, this.#keys);
  }

  #newObject(): PickleValue {
    const args = this.#arguments();
    this.#cost.charge(COST.dict);
    return this.#host.create(this.#pop(), args, this.#fail);
  }

  #build(): void {
    const state = this.#pop();
    this.#host.setState(this.#top(), state, this.#fail, this.#keys);
  }
}
