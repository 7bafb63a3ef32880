/** Small files that would cost seconds or gigabytes are refused by their size, before they do. */
import { writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { FormatError } from '../../src/errors.ts';
import { ByteReader } from '../../src/formats/byte-reader.ts';
import { hashFile } from '../../src/formats/file-hash.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { PickleCost } from '../../src/formats/pickle-cost.ts';
import { readBytes } from '../../src/formats/raw-tensor.ts';
import { get, put, TENSOR, text, torchLegacy, torchZip, zipFile } from './hostile-files.ts';
import { scratchFolder } from './scratch-folder.ts';

const scratch = scratchFolder();
/** Each took minutes or ended the process. */
const MAX_MILLISECONDS = 4000;
const MAX_GROWTH = 300e6;

/** Ten of the same in a tuple, `levels` times: in print 10^levels values. */
const tuples = (levels: number) => `K\x01${`${put(1)}0(${get(1).repeat(10)}t`.repeat(levels)}`;
const lists = (levels: number) => `K\x01${`${put(1)}0](${get(1).repeat(10)}e`.repeat(levels)}`;
const long = (characters: number) => text('k'.repeat(characters));

const PICKLES: readonly (readonly [string, string, RegExp])[] = [
  ['keys of shared tuples', `}${tuples(7)}Ns.`, /at most \d+ values in a file of \d+ bytes, got \d+/],
  ['names of shared tuples', `}${tuples(4)}${TENSOR}s.`, /names of at most 4096 characters/],
  ['lists of shared lists', `${lists(8)}.`, /at most \d+ values in a file of \d+ bytes, got \d+/],
  [
    'a key of 1 MB over 20,000 tensors',
    `}${long(1e6)}](${TENSOR}${put(1)}${get(1).repeat(20_000)}es.`,
    /4096/,
  ],
  [
    'a key of 4,000 characters over 20,000 tensors',
    `}${long(4000)}](${TENSOR}${put(1)}${get(1).repeat(20_000)}es.`,
    /names of at most \d+ characters together in a file of \d+ bytes, got \d+/,
  ],
  [
    'keys of 9 MB that join beyond the longest string',
    `${long(9e6)}${put(1)}0${TENSOR}${put(2)}0${`}${get(1)}`.repeat(40)}${get(2)}${'s'.repeat(40)}.`,
    /names of at most 4096 characters|memory and work/,
  ],
  [
    'one long list made into 50,000 sets',
    `](${'K\x01'.repeat(20_000)}e${put(1)}0c__builtin__\nset\n${put(2)}0(${`${get(2)}${get(1)}\x85R`.repeat(50_000)}t.`,
    /bytes of pickle to describe at most \d+ bytes of memory and work, got \d+/,
  ],
  [
    'one long tuple made into 50,000 sizes',
    `(${'K\x01'.repeat(20_000)}t${put(1)}0ctorch\nSize\n${put(2)}0(${`${get(2)}${get(1)}\x85R`.repeat(50_000)}t.`,
    /memory and work/,
  ],
  [
    'one long text made into 50,000 bytes',
    `${long(1e6)}\x8c\x06latin1\x86${put(1)}0c_codecs\nencode\n${put(2)}0(${`${get(2)}${get(1)}R`.repeat(50_000)}t.`,
    /memory and work/,
  ],
  [
    'one list of pairs made into 50,000 dicts',
    `](${'\x8c\x01aN\x86'.repeat(20_000)}e${put(1)}0ccollections\nOrderedDict\n${put(2)}0(${`${get(2)}${get(1)}\x85R`.repeat(50_000)}t.`,
    /memory and work/,
  ],
  [
    'two equal keys of 9 MB, set in turn',
    `${long(9e6)}${put(1)}0${long(9e6)}${put(2)}0}(${`${get(1)}N${get(2)}N`.repeat(50_000)}u.`,
    /memory and work/,
  ],
  [
    'a long tuple as a key of many dicts',
    `(${'K\x01'.repeat(100_000)}t${put(1)}0](${`}${get(1)}Ns`.repeat(100_000)}e.`,
    /memory and work|at most \d+ values/,
  ],
  ['1,400,000 dicts', `(${'}'.repeat(1_400_000)}t.`, /memory and work/],
  ['a long string and 1,400,000 dicts', `(${long(9e6)}${'}'.repeat(1_400_000)}t.`, /memory and work/],
  ['1,400,000 sets', `(${'\x8f'.repeat(1_400_000)}t.`, /memory and work/],
  ['a class name of 9 MB', `${long(9e6)}${long(9e6)}\x93.`, /module and name of at most 1024/],
  [
    'a storage key of 9 MB',
    `(\x8c\x07storagectorch\nFloatStorage\n${long(9e6)}\x8c\x03cpuK\x01tQ.`,
    /storage key of at most 200/,
  ],
  [
    '300 dimensions',
    TENSOR.replace('K\x01\x85K\x01\x85', `(${'K\x01'.repeat(300)}t(${'K\x01'.repeat(300)}t`).concat('.'),
    /at most 64 dimensions, got 300/,
  ],
  [
    'views that repeat one float 10,000 times, in 64 MB each',
    `${TENSOR.replace('K\x01\x85K\x01\x85', 'J\0\0\0\x01\x85K\0\x85')}${put(1)}0](${get(1).repeat(10_000)}e.`,
    /tensors of at most \d+ bytes on storages of 4, got \d+/,
  ],
];

async function refusal(name: string, bytes: Uint8Array): Promise<FormatError> {
  const file = scratch(name);
  writeFileSync(file, bytes);
  const before = process.memoryUsage.rss();
  const start = performance.now();
  const failure: unknown = await openTensorFile(file).catch((error: unknown) => error);
  expect(performance.now() - start).toBeLessThan(MAX_MILLISECONDS);
  expect(process.memoryUsage.rss() - before).toBeLessThan(MAX_GROWTH + 8 * bytes.length);
  expect(failure).toBeInstanceOf(FormatError);
  expect((failure as FormatError).message.length).toBeLessThan(4200);
  return failure as FormatError;
}

describe('pickles', () => {
  for (const [name, pickle, message] of PICKLES) {
    it(`${name}: a zip, a deflated zip and a legacy file are refused`, async () => {
      expect((await refusal('stored.pt', torchZip(pickle))).message).toMatch(message);
      expect((await refusal('deflated.pt', torchZip(pickle, true))).message).toMatch(
        new RegExp(`${message.source}|data.pkl: expected`),
      );
      const legacy = torchLegacy(pickle, pickle.includes('storage'));
      expect((await refusal('legacy.pt', legacy)).message).toMatch(message);
    });
  }

  it('legacy storage keys and protocols that are containers are named, not printed', async () => {
    const keys = torchLegacy('}.', false)
      .toString('latin1')
      .replace(/\]\.$/, () => `](${lists(9)}e.`);
    expect((await refusal('keys.pt', Buffer.from(keys, 'latin1'))).message).toMatch(/storage key a list/);
    const protocol = torchLegacy('}.', false)
      .toString('latin1')
      .replace('M\xe9\x03', () => lists(9));
    expect((await refusal('protocol.pt', Buffer.from(protocol, 'latin1'))).message).toMatch(/got a list/);
  });

  it('values that are no tensors are named shortly', async () => {
    const file = scratch('stray.pt');
    const nested = `${long(1e6)}${put(1)}0${`}${get(1)}`.repeat(40)}K\x01${'s'.repeat(40)}`;
    const keyed = `}${tuples(4)}K\x01s`;
    for (const pickle of [nested, keyed]) {
      writeFileSync(file, torchZip(`${pickle}.`));
      const failure: unknown = await loadConcept(file).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(FormatError);
      expect((failure as FormatError).message.length).toBeLessThan(1000);
    }
  });

  it('a device has no hash', async () => {
    await expect(hashFile('/dev/zero')).rejects.toThrow(/device/);
  });

  it('what real files share stays allowed', async () => {
    // One tensor under many names, one dict in many places, equal keys of tuples.
    const shared = `}(${Array.from({ length: 500 }, (_, i) => `${text(`w${i}`)}${i === 0 ? TENSOR + put(1) : get(1)}`).join('')}u.`;
    const file = scratch('shared.pt');
    writeFileSync(file, torchZip(shared));
    expect((await openTensorFile(file)).tensors.size).toBe(500);
    writeFileSync(file, torchZip(`}(${tuples(2)}K\x01${tuples(2)}K\x02u.`));
    expect(((await openTensorFile(file)).root as Map<unknown, unknown>).size).toBe(1);
  });
});

describe('deflated entries', () => {
  const pickle = (count: string) => TENSOR.replace('K\x01tQ', `J${count}tQ`).concat('.');

  it('that become more than the file allows are refused with both numbers', async () => {
    const bytes = zipFile([
      { name: 'archive/data.pkl', bytes: Buffer.from(pickle('\0\0\0\x02'), 'latin1') },
      { name: 'archive/data/0', bytes: new Uint8Array(1 << 27), deflate: true },
    ]);
    const { message } = await refusal('bomb.pt', bytes);
    expect(message).toContain(
      `at most ${(1 << 26) + 16 * bytes.length} bytes in a file of ${bytes.length}, got ${1 << 27}`,
    );
  });

  it('are inflated when they are read, not when the file is opened', async () => {
    const zip = zipFile([
      { name: 'archive/data.pkl', bytes: Buffer.from(pickle('\0\0\x40\0'), 'latin1') },
      { name: 'archive/data/0', bytes: new Uint8Array(1 << 24), deflate: true },
    ]);
    const file = scratch('lazy.pt');
    writeFileSync(file, zip);
    expect([...readBytes((await openTensorFile(file)).tensors.get('')!)]).toEqual([0, 0, 0, 0]);
    // Damage within the deflated data.
    const at = zip.indexOf('archive/data/0') + 'archive/data/0'.length + 100;
    zip[at] = zip[at]! ^ 0xff;
    writeFileSync(file, zip);
    const { tensors } = await openTensorFile(file);
    expect(() => readBytes(tensors.get('')!)).toThrow(FormatError);
  });
});

describe('headers and indices', () => {
  const ENTRY = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}';
  const safetensors = (header: string) => {
    const length = Buffer.alloc(8);
    length.writeUInt32LE(Buffer.byteLength(header));
    return Buffer.concat([length, Buffer.from(header), Buffer.alloc(4)]);
  };

  it('a metadata string of more than 2^23 characters is read', async () => {
    const file = scratch('long.safetensors');
    for (const note of ['x'.repeat(9e6), '\\"\\\\'.repeat(3e6)]) {
      writeFileSync(file, safetensors(`{"__metadata__":{"note":"${note}"},${ENTRY}}`));
      const { metadata } = await openTensorFile(file);
      expect(metadata.get('note') === JSON.parse(`"${note}"`)).toBe(true);
    }
  });

  const repeated = (count: number, make: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => make(i)).join();
  const HEADERS: readonly (readonly [string, string, RegExp])[] = [
    ['an open string of 10 MB', `{"${'n'.repeat(1e7)}`, /a closed string/],
    ['an open string of quotes', `{"${'\\"'.repeat(5e6)}`, /a closed string/],
    [
      'a name of 9 MB',
      `{"${'n'.repeat(9e6)}":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`,
      /4096 characters, got 9000000/,
    ],
    ['deep nesting', `{"w":{"other":${'['.repeat(5e6)}`, /nested at most 64 deep/],
    ['deep nesting of objects', `{"w":{"other":${'{"a":'.repeat(5e6)}`, /nested at most 64 deep/],
    ['a number of 10 MB', `{"w":{"shape":[${'1'.repeat(1e7)}]}}`, /a whole number/],
    ['millions of dimensions', `{"w":{"shape":[${'1,'.repeat(1e7)}1]}}`, /at most 64 numbers/],
    [
      '300,000 tensors',
      `{${repeated(300_000, (i) => `"n${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`)}}`,
      /at most 131072 names/,
    ],
    [
      '100,000 keys of metadata',
      `{"__metadata__":{${repeated(100_000, (i) => `"${i}":""`)}}}`,
      /at most 65536 names/,
    ],
  ];
  for (const [name, header, message] of HEADERS) {
    it(`${name} is refused`, async () => {
      expect((await refusal('header.safetensors', safetensors(header))).message).toMatch(message);
    });
  }

  it('fields that the reference library reads past are read past, and no metadata may be null', async () => {
    const file = scratch('extra.safetensors');
    const more = ENTRY.replace('}', ',"note":{"a":[1,-2.5e3,"x",null,true,{}]}}');
    writeFileSync(file, safetensors(`{"__metadata__":null,${more}}`));
    expect((await openTensorFile(file)).tensors.size).toBe(1);
  });

  const INDICES: readonly (readonly [string, string, RegExp])[] = [
    ['deep nesting', `{"metadata":${'['.repeat(1e7)}`, /nested at most 64 deep/],
    ['a name twice', '{"weight_map":{"a":"a.bin","a":"b.bin"}}', /"a" occurs twice/],
    ['a map twice', '{"weight_map":{"a":"a.bin"},"weight_map":{"a":"b.bin"}}', /"weight_map" occurs twice/],
    [
      '200,000 names',
      `{"weight_map":{${repeated(200_000, (i) => `"${i}":"a.bin"`)}}}`,
      /at most 131072 names/,
    ],
    ['a shard name of 10 MB', `{"weight_map":{"a":"${'a'.repeat(1e7)}.bin"}}`, /a file in the same folder/],
    ['a list for a map', '{"weight_map":[]}', /expected "weight_map"/],
    ['half a text', '{"weight_map":{"a":', /a string/],
  ];
  for (const [name, index, message] of INDICES) {
    it(`an index with ${name} is refused`, async () => {
      expect((await refusal('model.safetensors.index.json', Buffer.from(index))).message).toMatch(message);
    });
  }
});

describe('zip directories', () => {
  it('more entries than any model has are refused before they are read', async () => {
    const parts = Array.from({ length: 50_001 }, (_, i) => ({ name: `a/${i}`, bytes: new Uint8Array(0) }));
    expect((await refusal('many.pt', zipFile(parts))).message).toMatch(
      /at most 50000 zip entries, got 50001/,
    );
  });
});

describe('what a pickle may cost', () => {
  /** A reader that has read so many bytes of a pickle since its account was opened. */
  const account = (bytes: number, fileBytes: number) => {
    const reader = ByteReader.ofBytes('a.pth', 'data.pkl', new Uint8Array(bytes));
    const cost = new PickleCost(reader, fileBytes);
    reader.bytes(bytes);
    return cost;
  };

  it('is 64 MiB, and 32 bytes for each that is read, exactly', () => {
    const allowed = 2 ** 26 + 32 * 100;
    expect(() => account(100, 1000).charge(allowed)).not.toThrow();
    expect(() => account(100, 1000).charge(allowed + 1)).toThrow(
      /expected 100 bytes of pickle to describe at most 67112064 bytes of memory and work, got 67112065/,
    );
  });

  it('is no more than the file allows that it was inflated from', () => {
    expect(() => account(100, 10).charge(2 ** 26 + 320)).not.toThrow();
    expect(() => account(100, 10).charge(2 ** 26 + 321)).toThrow(FormatError);
  });
});
