/** Makers of files as an attacker would write them. */
import zlib from 'node:zlib';

export interface ZipPart {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly deflate?: boolean;
}

/** A zip file, byte by byte. */
export function zipFile(parts: readonly ZipPart[]): Buffer {
  const bodies: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, bytes, deflate = false } of parts) {
    const packed = deflate ? zlib.deflateRawSync(bytes, { level: 9 }) : Buffer.from(bytes);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(deflate ? 8 : 0, 4);
    common.writeUInt32LE(zlib.crc32(bytes), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(bytes.length, 18);
    common.writeUInt16LE(name.length, 22);
    bodies.push(Buffer.concat([Buffer.from('PK\x03\x04'), common, Buffer.from(name), packed]));
    const place = Buffer.alloc(14);
    place.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\0'), common, place, Buffer.from(name)]));
    offset += bodies.at(-1)!.length;
  }
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(parts.length, 8);
  end.writeUInt16LE(parts.length, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...bodies, ...directory, end]);
}

/** A torch zip around a pickle in Latin-1, with one storage "0" of 4 bytes. */
export function torchZip(pickle: string, deflate = false): Buffer {
  return zipFile([
    { name: 'archive/data.pkl', bytes: Buffer.from(pickle, 'latin1'), deflate },
    { name: 'archive/data/0', bytes: new Uint8Array(4) },
  ]);
}

/** A legacy torch file around the same pickle; `used` says whether it refers to storage "0". */
export function torchLegacy(pickle: string, used: boolean): Buffer {
  const count = Buffer.alloc(8);
  count.writeInt32LE(1);
  return Buffer.concat([
    Buffer.from('\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.', 'latin1'),
    Buffer.from('\x80\x02M\xe9\x03.', 'latin1'),
    Buffer.from('\x80\x02}X\x0d\0\0\0little_endian\x88s.', 'latin1'),
    Buffer.from(pickle, 'latin1'),
    Buffer.from(used ? '](\x8c\x010e.' : '].', 'latin1'),
    ...(used ? [count, Buffer.alloc(4)] : []),
  ]);
}

/** Pickle text: a string of any length. */
export function text(value: string): string {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(value.length);
  return `X${head.toString('latin1')}${value}`;
}

/** Pickle text: memoise the top of the stack, recall it. */
export const put = (index: number) => `q${String.fromCharCode(index)}`;
export const get = (index: number) => `h${String.fromCharCode(index)}`;

/** Pickle text: a tensor of one float on storage "0". */
export const TENSOR =
  'ctorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuK\x01tQ' +
  'K\0K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR';
