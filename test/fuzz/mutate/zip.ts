/** Zip archives: their entries' content with true checksums and sizes, or a directory that lies. */
import { crc32, deflateRawSync, inflateRawSync } from 'node:zlib';
import type { Random } from '../random.ts';
import { mutateBytes } from './bytes.ts';
import { mutatePickle } from './pickle.ts';

interface Entry {
  name: string;
  data: Buffer;
  deflated: boolean;
}

/** Entries of a plain archive. */
export function readEntries(bytes: Buffer): Entry[] {
  const end = bytes.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  const count = bytes.readUInt16LE(end + 10);
  const entries: Entry[] = [];
  let at = bytes.readUInt32LE(end + 16);
  for (let i = 0; i < count; i++) {
    const [method, size] = [bytes.readUInt16LE(at + 10), bytes.readUInt32LE(at + 20)];
    const [nameLength, extra, comment] = [28, 30, 32].map((place) => bytes.readUInt16LE(at + place)) as [
      number,
      number,
      number,
    ];
    const local = bytes.readUInt32LE(at + 42);
    const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
    const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
    const stored = bytes.subarray(start, start + size);
    entries.push({
      name,
      data: method === 8 ? inflateRawSync(stored) : Buffer.from(stored),
      deflated: method === 8,
    });
    at += 46 + nameLength + extra + comment;
  }
  return entries;
}

const NAMES = [
  'archive/data.pkl',
  'data.pkl',
  '../x/data.pkl',
  '/data.pkl',
  'archive/data/0',
  'a\\b',
  '',
  'archive/version',
];

/** An archive of these entries. @param lie changes one header field of one entry, the directory's copy or both */
function writeEntries(
  entries: readonly Entry[],
  lie: (header: Buffer, where: 'local' | 'central') => void,
): Buffer {
  const locals: Buffer[] = [];
  const centrals: Buffer[] = [];
  let offset = 0;
  for (const { name, data, deflated } of entries) {
    const stored = deflated ? deflateRawSync(data) : data;
    const label = Buffer.from(name);
    // From the method on, both headers have the same fields.
    const shared = Buffer.alloc(22);
    shared.writeUInt16LE(deflated ? 8 : 0, 2);
    shared.writeUInt32LE(crc32(data), 8);
    shared.writeUInt32LE(stored.length, 12);
    shared.writeUInt32LE(data.length, 16);
    shared.writeUInt16LE(label.length, 20);
    const local = Buffer.alloc(30);
    local.write('PK\x03\x04\x14\0', 'latin1');
    shared.copy(local, 6);
    lie(local, 'local');
    const central = Buffer.alloc(46);
    central.write('PK\x01\x02\x14\0\x14\0', 'latin1');
    shared.copy(central, 8);
    central.writeUInt32LE(offset, 42);
    lie(central, 'central');
    const padding = Buffer.alloc(0);
    locals.push(local, label, padding, stored);
    centrals.push(central, label);
    offset += local.length + label.length + stored.length;
  }
  const directory = Buffer.concat(centrals);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, directory, end]);
}

/** A damaged archive. */
export function mutateZip(random: Random, bytes: Uint8Array): Buffer {
  let entries: Entry[];
  try {
    entries = readEntries(Buffer.from(bytes));
  } catch (error) {
    // Seeds that are hostile from the start.
    if (!(error instanceof RangeError || (error as NodeJS.ErrnoException).code?.startsWith('Z_')))
      throw error;
    return mutateBytes(random, bytes);
  }
  let lying: (header: Buffer, where: 'local' | 'central') => void = () => undefined;
  for (let i = random.few(2); i > 0; i--) {
    const at = random.below(entries.length);
    const entry = entries[at];
    if (entry === undefined) break;
    switch (random.below(12)) {
      case 0:
        entries.splice(at, 1);
        break;
      case 1:
        entries.push({ ...entry });
        break;
      case 2:
        entry.name = random.chance(0.5) ? random.pick(NAMES) : random.pick(entries).name;
        break;
      case 3:
        entry.deflated = !entry.deflated;
        break;
      case 4: {
        const wanted = random.pick(['local', 'central', 'both']);
        const field = random.below(36);
        const value = random.pick([0, 1, 8, 99, 0x7fffffff, 0xffffffff, 0xfffffffe, 0x1000, 21]);
        const skip = random.below(entries.length);
        let seen = 0;
        lying = (header, where) => {
          if (wanted !== 'both' && wanted !== where) return;
          if (seen++ === skip && field + 4 <= header.length) header.writeUInt32LE(value >>> 0, field);
        };
        break;
      }
      case 5:
        entry.data = mutateBytes(random, entry.data, random.pick(entries).data);
        break;
      default: {
        const pickle = entries.find(({ name }) => name.endsWith('data.pkl')) ?? entry;
        pickle.data = mutatePickle(random, pickle.data);
      }
    }
  }
  return writeEntries(entries, lying);
}
