/** What a pickle holds: Python's plain containers and scalars, and what a host adds to them. */
import type { FormatError } from '../errors.ts';

/** Anything on the machine's stack. Objects with a `kind` are tuples, sets and what the host made. */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleValue[]
  | Map<PickleValue, PickleValue>
  | PickleObject;

export interface PickleObject {
  readonly kind: string;
}

export interface PickleTuple extends PickleObject {
  readonly kind: 'tuple';
  readonly items: readonly PickleValue[];
}

export interface PickleSet extends PickleObject {
  readonly kind: 'set';
  readonly items: PickleValue[];
}

/** Makes an error that names file, part and position. */
export type Fail = (message: string) => FormatError;

export function isTuple(value: PickleValue | undefined): value is PickleTuple {
  return isPickleObject(value) && value.kind === 'tuple';
}

export function isPickleObject(value: PickleValue | undefined): value is PickleObject {
  return typeof value === 'object' && value !== null && 'kind' in value;
}

export function isSet(value: PickleValue | undefined): value is PickleSet {
  return isPickleObject(value) && value.kind === 'set';
}

/** Names the type of an object for the machine's stack, which knows only its `kind`. */
export function made<T extends PickleObject>(object: T): T {
  return object;
}

export function tupleOf(items: readonly PickleValue[]): PickleTuple {
  return { kind: 'tuple', items };
}

/** A value in a few words, for errors: its kind, or its name if it is a class. Never its content. */
export function describe(value: PickleValue | undefined): string {
  if (isPickleObject(value)) {
    const named = value.kind === 'callee' || value.kind === 'reference';
    return named && 'name' in value ? `"${value.name}"` : `a ${value.kind}`;
  }
  if (value === null || value === undefined) return 'None';
  if (Array.isArray(value)) return 'a list';
  if (value instanceof Map) return 'a dict';
  return value instanceof Uint8Array ? 'bytes' : `a ${typeof value}`;
}
