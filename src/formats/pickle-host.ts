/** What stands behind names and calls in a pickle: the one door out of plain containers and scalars. */
import type { Fail, PickleValue } from './pickle-value.ts';
import type { PythonKeys } from './python-keys.ts';

/**
 * What a pickle may refer to. Each method throws the error that `fail` makes when it refuses. What it is given has been
 * charged to the pickle's account once; a method that sets dictionary keys does so through `keys`, which charges them.
 */
export interface PickleHost {
  /** The stand-in for an allowed `module.name`. */
  global(name: string, fail: Fail): PickleValue;
  /** REDUCE. */
  call(callee: PickleValue, args: readonly PickleValue[], fail: Fail, keys: PythonKeys): PickleValue;
  /** NEWOBJ. */
  create(type: PickleValue, args: readonly PickleValue[], fail: Fail): PickleValue;
  /** BUILD. */
  setState(object: PickleValue, state: PickleValue, fail: Fail, keys: PythonKeys): void;
  /** BINPERSID. */
  persistent(id: PickleValue, fail: Fail): PickleValue;
}

/** A host for pickles that hold scalars and containers only. */
export const PLAIN_DATA: PickleHost = {
  global(name, fail) {
    throw fail(`pickle refers to "${name}" where only plain data belongs`);
  },
  call: (_callee, _args, fail) => refuse(fail),
  create: (_type, _args, fail) => refuse(fail),
  setState: (_object, _state, fail) => refuse(fail),
  persistent: (_id, fail) => refuse(fail),
};

function refuse(fail: Fail): never {
  throw fail('expected plain data, got a call');
}
