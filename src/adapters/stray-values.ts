/** Values of PyTorch files that are neither dictionaries nor tensors: no part of an adapter, named where all must be used. */
import { shortened } from '../errors.ts';
import { keyName } from '../formats/torch-names.ts';
import { isTensor, type TorchValue } from '../formats/torch-value.ts';

/** Characters of the name of a value that is no tensor, and of one key in it; for messages. */
const STRAY_CHARACTERS = 200;

/** Where a torch file holds things other than dictionaries and tensors. Long names keep beginning and end. */
export function strayValues(root: TorchValue): string[] {
  const stray: string[] = [];
  // A list of what is to be looked at in place of recursion: files nest as deep as they like.
  const open: (readonly [name: string, value: TorchValue])[] = [['', root]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [name, value] = next;
    if (value instanceof Map) {
      const inside = [...value].map(([key, item]) => {
        const own = keyName(key, STRAY_CHARACTERS) ?? strayKey(key);
        return [name === '' ? own : shortened(`${name}.${own}`, STRAY_CHARACTERS), item] as const;
      });
      for (const entry of inside.reverse()) open.push(entry);
    } else if (!isTensor(value)) {
      stray.push(
        `${name} (${value === null ? 'None' : Array.isArray(value) ? 'a list' : `a ${typeof value}`})`,
      );
    }
  }
  return stray;
}

function strayKey(key: TorchValue): string {
  return typeof key === 'string' ? shortened(key, STRAY_CHARACTERS) : 'a long key';
}
