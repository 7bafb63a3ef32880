/** Sizes, strides and offsets: whole numbers ≥ 0, as `torch.Size`, tuples or lists. */
import { type Fail, isPickleObject, isTuple, made, type PickleValue } from './pickle-value.ts';
import type { TorchSize } from './torch-value.ts';

export function torchSize(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length !== 1) throw fail('expected torch.Size of one tuple, got something else');
  return made<TorchSize>({ kind: 'size', sizes: wholeNumbers(args[0], 'sizes', fail) });
}

export function isWhole(value: PickleValue | undefined): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function wholeNumbers(value: PickleValue | undefined, what: string, fail: Fail): number[] {
  const items = isTuple(value)
    ? value.items
    : isPickleObject(value) && value.kind === 'size'
      ? (value as TorchSize).sizes
      : value;
  if (!Array.isArray(items) || !items.every(isWhole)) {
    throw fail(`expected ${what} as whole numbers ≥ 0 and below 2^53, got something else`);
  }
  return [...items];
}
