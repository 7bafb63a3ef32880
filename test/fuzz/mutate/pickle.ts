/** Pickles, opcode by opcode: swapped, doubled, left out, with other arguments; lengths stay true unless they shall lie. */
import type { Random } from '../random.ts';
import { mutateBytes } from './bytes.ts';

/** How many bytes follow an opcode: a number, a length of so many bytes with its data, or lines. */
const FIXED: Readonly<Record<number, number>> = {
  75: 1, // K BININT1
  104: 1, // h BINGET
  113: 1, // q BINPUT
  128: 1, // PROTO
  130: 1, // EXT1
  77: 2, // M BININT2
  131: 2, // EXT2
  74: 4, // J BININT
  106: 4, // j LONG_BINGET
  114: 4, // r LONG_BINPUT
  132: 4, // EXT4
  71: 8, // G BINFLOAT
  149: 8, // FRAME
};
const COUNTED: Readonly<Record<number, number>> = {
  85: 1, // U SHORT_BINSTRING
  67: 1, // C SHORT_BINBYTES
  140: 1, // SHORT_BINUNICODE
  138: 1, // LONG1
  84: 4, // T BINSTRING
  88: 4, // X BINUNICODE
  66: 4, // B BINBYTES
  139: 4, // LONG4
  141: 8, // BINUNICODE8
  142: 8, // BINBYTES8
  150: 8, // BYTEARRAY8
};
const LINES: Readonly<Record<string, number>> = {
  I: 1,
  L: 1,
  F: 1,
  S: 1,
  V: 1,
  g: 1,
  p: 1,
  P: 1,
  c: 2,
  i: 2,
};
const STOP = 46;

/** Cut into opcodes with their arguments. @param pickles how many follow each other; the rest is the last element */
function cut(bytes: Buffer, pickles: number): Buffer[] | null {
  const parts: Buffer[] = [];
  let at = 0;
  for (let left = pickles; left > 0; ) {
    if (at >= bytes.length) return null;
    const code = bytes[at]!;
    let end = at + 1;
    if (FIXED[code] !== undefined) end += FIXED[code];
    else if (COUNTED[code] !== undefined) {
      const width = COUNTED[code];
      if (end + width > bytes.length) return null;
      end += width + bytes.readUIntLE(end, Math.min(width, 6));
    } else {
      for (let lines = LINES[String.fromCharCode(code)] ?? 0; lines > 0; lines--) {
        const next = bytes.indexOf(10, end);
        if (next < 0) return null;
        end = next + 1;
      }
    }
    if (end > bytes.length) return null;
    parts.push(bytes.subarray(at, end));
    at = end;
    if (code === STOP) left--;
  }
  parts.push(bytes.subarray(at));
  return parts;
}

const ANY = [
  ...[
    '(',
    '0',
    '1',
    '2',
    '.',
    'N',
    ')',
    ']',
    '}',
    't',
    'l',
    'd',
    'e',
    'a',
    's',
    'u',
    'R',
    'b',
    'o',
    'Q',
    '\x81',
    '\x85',
  ],
  ...['\x86', '\x87', '\x88', '\x89', '\x8f', '\x90', '\x91', '\x92', '\x93', '\x94', '\x97', '\x98'],
  ...[
    'K\x00',
    'K\xff',
    'M\xff\xff',
    'J\xff\xff\xff\x7f',
    'J\x00\x00\x00\x80',
    'h\x00',
    'h\x01',
    'q\x00',
    'h\xff',
    'j\xff\xff\xff\xff',
  ],
  ...[
    'r\xff\xff\xff\x7f',
    'G\x7f\xf8\x00\x00\x00\x00\x00\x00',
    'G\xff\xf0\x00\x00\x00\x00\x00\x00',
    'I00\n',
    'I-1\n',
    'F1e999\n',
    'L9L\n',
  ],
  ...[
    'X\x00\x00\x00\x00',
    'X\x09\x00\x00\x00__proto__',
    'U\x01x',
    '\x8c\x02\xff\xfe',
    '\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff',
  ],
  ...[
    '\x8a\xff',
    'cos\nsystem\n',
    'cbuiltins\neval\n',
    'ccollections\nOrderedDict\n',
    'ctorch._utils\n_rebuild_tensor_v2\n',
  ],
  ...[
    'ctorch._utils\n_rebuild_parameter\n',
    'ctorch\nFloatStorage\n',
    'ctorch\nSize\n',
    'ctorch\nfloat16\n',
    'c__builtin__\nset\n',
  ],
  ...[
    'ccollections\ndefaultdict\n',
    'ccollections\nCounter\n',
    'cargparse\nNamespace\n',
    'c_codecs\nencode\n',
    'cbuiltins\nbytearray\n',
  ],
] as const;

/** Another argument. */
function changed(random: Random, part: Buffer): Buffer {
  const code = part[0]!;
  if (COUNTED[code] !== undefined && random.chance(0.6)) {
    const width = COUNTED[code];
    const data = mutateBytes(random, part.subarray(1 + width));
    const kept = width === 1 ? data.subarray(0, 255) : data;
    const length = Buffer.alloc(width);
    length.writeUIntLE(kept.length, 0, Math.min(width, 6));
    return Buffer.concat([part.subarray(0, 1), length, kept]);
  }
  return Buffer.concat([
    part.subarray(0, 1),
    mutateBytes(random, part.subarray(1)).subarray(0, part.length + 3),
  ]);
}

/**
 * A damaged pickle.
 * @param pickles how many lie one after the other; what follows the last is kept (legacy torch files: storages)
 */
export function mutatePickle(random: Random, bytes: Uint8Array, pickles = 1): Buffer {
  const parts = cut(Buffer.from(bytes), pickles);
  if (parts === null) return mutateBytes(random, bytes);
  const tail = parts.pop()!;
  const any = (): Buffer => Buffer.from(random.pick(ANY), 'latin1');
  for (let i = random.few(4); i > 0 && parts.length > 0; i--) {
    const at = random.below(parts.length);
    const other = random.below(parts.length);
    switch (random.below(9)) {
      case 0:
        parts.splice(at, 1);
        break;
      case 1:
        parts.splice(at, 0, parts[at]!);
        break;
      case 2:
        parts.splice(at, 0, any());
        break;
      case 3:
        [parts[at], parts[other]] = [parts[other]!, parts[at]!];
        break;
      case 4:
        parts.splice(at, 0, ...parts.slice(other, other + random.few(20)));
        break;
      case 5: {
        const piece = random.chance(0.5) ? any() : Buffer.concat([any(), any()]);
        const times = random.few(random.chance(0.05) ? 4000 : 60);
        parts.splice(at, 0, ...Array.from({ length: times }, () => piece));
        break;
      }
      case 6:
        parts[at] = any();
        break;
      default:
        parts[at] = changed(random, parts[at]!);
    }
  }
  return Buffer.concat([...parts, random.chance(0.1) ? mutateBytes(random, tail) : tail]);
}
