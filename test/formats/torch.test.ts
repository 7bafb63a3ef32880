/** Torch files beyond the goldens: the pickle machine on hand-made pickles, and the writer. */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError, UsageError } from '../../src/errors.ts';
import { ByteReader } from '../../src/formats/byte-reader.ts';
import { DTYPES } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { unpickle } from '../../src/formats/pickle.ts';
import { byteRangeOf, float32Tensor, readBytes } from '../../src/formats/raw-tensor.ts';
import { torchHost } from '../../src/formats/torch-host.ts';
import type { TorchDict, TorchValue } from '../../src/formats/torch-value.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { PYTHON } from '../support/python.ts';
import { TENSOR, zipFile } from './hostile-files.ts';
import { scratchFolder } from './scratch-folder.ts';
import { randomTensors } from './weights.ts';

const scratch = scratchFolder();

/** Run a pickle given as Latin-1 text, without storages. */
function run(pickle: string) {
  const reader = ByteReader.ofBytes('hand-made', 'pickle', Buffer.from(pickle, 'latin1'));
  const host = torchHost((_, fail) => {
    throw fail('no storages here');
  });
  return unpickle(reader, host);
}

describe('pickle machine', () => {
  it('text opcodes of protocol 0', () => {
    expect(run('(lp0\nI5\naL-7L\naF2.5\naI01\naI00\naF-inf\nag0\n0.')).toEqual([
      5,
      -7,
      2.5,
      true,
      false,
      -Infinity,
    ]);
    expect(run('(I1\nI2\nd.')).toEqual(new Map([[1, 2]]));
  });

  it('equal keys of Python are one key, the first spelling stays', () => {
    expect(run('}(K\x01K\x0a\x88K\x14u.')).toEqual(new Map([[1, 20]]));
    expect(run('}(\x89K\x0aK\x00K\x14u.')).toEqual(new Map([[false, 20]]));
    const tuples = run('}(K\x01K\x02\x86K\x0aK\x01K\x02\x86K\x14u.') as Map<unknown, unknown>;
    expect([...tuples.values()]).toEqual([20]);
    expect(run('\x8f(K\x01\x88K\x02\x90.')).toEqual({ kind: 'set', items: [1, 2] });
  });

  it('integers of any length', () => {
    expect(run('\x8a\x00.')).toBe(0);
    expect(run('\x8a\x01\xff.')).toBe(-1);
    expect(run('\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.')).toBe(-(2n ** 63n));
  });

  it('a value below a MARK is out of reach', () => {
    expect(() => run('K\x01(0.')).not.toThrow();
    expect(() => run('K\x01(a.')).toThrow(/empty stack/);
    expect(() => run('K\x01(\x85.')).toThrow(/empty stack/);
  });

  it('small opcodes that make many objects are stopped early', () => {
    expect(() => run(`(${']'.repeat(3_000_000)}l.`)).toThrow(/of memory and work/);
    expect(() => run(`(${'N'.repeat(3_000_000)}l.`)).toThrow(/operations/);
  });

  it.each([
    ['a function', 'cos\nsystem\n.', /"os\.system".*not an allowed type/],
    ['a name that hides in an allowed module', 'ctorch._utils\nos.system\n.', /not an allowed type/],
    ['a storage of another module', 'cevil\nFloatStorage\n.', /not an allowed type/],
    ['Object.prototype', 'cconstructor\nprototype\n.', /not an allowed type/],
    [
      'a dtype that only JavaScript knows',
      'cnumpy\ndtype\n(X\x09\x00\x00\x00__proto__\x89\x88tR.',
      /numpy scalar/,
    ],
    ['a number that only JavaScript knows', 'Fconstructor\n.', /expected a number, got "constructor"/],
    ['a call of an inert class', 'cpytorch_lightning.callbacks.a\nB\n)R.', /allowed constructor/],
    ['an object of an inert class', 'cpytorch_lightning.callbacks.a\nB\n)\x81.', /makes an object/],
    ['state for a plain dict', '}}(X\x01\x00\x00\x00aK\x01ub.', /sets the state/],
    ['an unset ParameterDict state', 'ctorch.nn.modules.container\nParameterDict\n)\x81}b.', /_parameters/],
    ['a call of ParameterDict', 'ctorch.nn.modules.container\nParameterDict\n)R.', /calls/],
    ['an unhashable set member', '\x8f(]\x90.', /hashable/],
    ['bytes in another encoding', 'c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.', /latin1/],
  ])('%s is refused', (_, pickle, message) => {
    expect(() => run(pickle)).toThrow(FormatError);
    expect(() => run(pickle)).toThrow(message);
  });
});

describe('writeTorchZip', () => {
  const params = (tensors: ReturnType<typeof torchTensor>[]): TorchDict =>
    new Map([['params', new Map(tensors.map((value) => [value.tensor.name, value]))]]);
  const torchDTypes = DTYPES.filter((dtype) => dtype !== 'F4');

  it('keeps names, dtypes, shapes and bytes', async () => {
    const file = scratch('random.pth');
    await fc.assert(
      fc.asyncProperty(randomTensors(torchDTypes), async (tensors) => {
        await writeTorchZip(file, params(tensors.map(torchTensor)));
        const read = (await openTensorFile(file)).root as TorchDict;
        const held = read.get('params') as TorchDict;
        expect([...held.keys()]).toEqual(tensors.map(({ name }) => name));
        for (const tensor of tensors) {
          const value = held.get(tensor.name) as ReturnType<typeof torchTensor>;
          expect([value.tensor.dtype, value.tensor.shape]).toEqual([tensor.dtype, tensor.shape]);
          expect(Buffer.from(readBytes(value.tensor))).toEqual(Buffer.from(readBytes(tensor)));
        }
      }),
      { numRuns: 60 },
    );
  });

  it('keeps plain values', async () => {
    const file = scratch('plain.pth');
    const integer = fc.bigInt({ min: -(2n ** 200n), max: 2n ** 200n });
    const beyond = integer.filter((value) => !Number.isSafeInteger(Number(value)));
    const { value } = fc.letrec<{ value: TorchValue }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.constantFrom<TorchValue>(null, true, false, 0, -0, Infinity, 2 ** 31, -(2 ** 31), 2 ** 40, ''),
        fc.double({ noNaN: true }),
        fc.maxSafeInteger(),
        beyond,
        fc.string({ unit: 'binary' }),
        fc.uint8Array({ maxLength: 8 }),
        fc.array(tie('value'), { maxLength: 4 }),
        fc.array(tie('value'), { maxLength: 4 }).map((items) => ({ kind: 'tuple', items }) as const),
        fc.array(fc.tuple(fc.string(), tie('value')), { maxLength: 4 }).map((pairs) => new Map(pairs)),
      ),
    }));
    await fc.assert(
      fc.asyncProperty(value, async (tree) => {
        await writeTorchZip(file, tree);
        expect((await openTensorFile(file)).root).toEqual(tree);
      }),
      { numRuns: 100 },
    );
  });

  it('aligns storages to 64 bytes and gives equal files for equal content', async () => {
    const tensors = [3, 5, 7].map((count) =>
      torchTensor(float32Tensor(`t${count}`, [count], new Float32Array(count))),
    );
    await writeTorchZip(scratch('a.pth'), params(tensors));
    for (const tensor of (await openTensorFile(scratch('a.pth'))).tensors.values()) {
      expect(byteRangeOf(tensor)!.offset % 64).toBe(0);
    }
  });

  it('does not write what it could not read again', async () => {
    const tensor = torchTensor(float32Tensor('w', [1], Float32Array.of(1)));
    const shaped = (shape: readonly number[]) => torchTensor({ ...tensor.tensor, shape });
    const refused: readonly (readonly [TorchValue, RegExp])[] = [
      [
        new Map<TorchValue, TorchValue>([
          ['a', new Map([['b', tensor]])],
          ['a.b', tensor],
        ]),
        /same name "a.b"/,
      ],
      [
        new Map<TorchValue, TorchValue>([
          [1, 'one'],
          [true, 'true'],
        ]),
        /two keys that are one in Python/,
      ],
      [new Map<TorchValue, TorchValue>([[[1], 'list']]), /hashable/],
      [{ kind: 'set', items: [new Map()] }, /hashable/],
      [{ kind: 'dtype', name: 'torch.float99' }, /not an allowed type/],
      [{ kind: 'size', sizes: [-1] }, /whole numbers/],
      [shaped([-1]), /element count|whole numbers/],
      [shaped([0.5]), /element count|whole numbers/],
      [shaped(new Array<number>(65).fill(1)), /at most 64 dimensions/],
      ['x'.repeat(2 ** 24 + 1), /strings of at most/],
      [new Map([['k'.repeat(5000), tensor]]), /at most 4096 characters/],
      [new Array<TorchValue>(1_600_000).fill(null), /operations/],
      [new Array<TorchValue>(50_000).fill(tensor), /at most 49997 tensors/],
    ];
    for (const [value, message] of refused) {
      await expect(writeTorchZip(scratch('never.pth'), value)).rejects.toThrow(UsageError);
      await expect(writeTorchZip(scratch('never.pth'), value)).rejects.toThrow(message);
    }
    expect(existsSync(scratch('never.pth'))).toBe(false);
  });

  it('refuses cycles and class names', async () => {
    const cycle: TorchValue[] = [];
    cycle.push(cycle);
    await expect(writeTorchZip(scratch('never.pth'), cycle)).rejects.toThrow(UsageError);
    await expect(writeTorchZip(scratch('never.pth'), { kind: 'reference', name: 'a.B' })).rejects.toThrow(
      UsageError,
    );
  });

  const python = spawnSync(PYTHON, [
    '-c',
    'import importlib.util as u; raise SystemExit(u.find_spec("torch") is None)',
  ]);

  it.skipIf(python.status !== 0)('is opened by torch.load(weights_only=True)', async () => {
    const values = torchDTypes.map((dtype) =>
      torchTensor({ ...float32Tensor(dtype, [2, 8], new Float32Array(16)), dtype, shape: [2], strides: [1] }),
    );
    const file = scratch('oracle.pth');
    const plain: TorchDict = new Map<TorchValue, TorchValue>([
      ['integers', [1, -1, 2 ** 40, 2n ** 100n]],
      ['floats', { kind: 'tuple', items: [0.5, -0] }],
      [7, new Map([['text', 'ü']])],
      ['bytes', Uint8Array.of(0, 255)],
      [
        'parameter',
        {
          ...torchTensor(float32Tensor('p', [1, 2], Float32Array.of(1, 2))),
          parameter: true,
          requiresGrad: true,
        },
      ],
    ]);
    await writeTorchZip(file, new Map([...params(values), ...plain]));
    const script = `
import json, sys, torch
x = torch.load(sys.argv[1], weights_only=True)
print(json.dumps([[k, str(v.dtype), list(v.shape)] for k, v in x['params'].items()]))
print(repr((x['integers'], x['floats'], x[7], x['bytes'], type(x['parameter']).__name__, x['parameter'].tolist())))
`;
    const { stdout, stderr, status } = spawnSync(PYTHON, ['-c', script, file], { encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    const [tensors, rest] = stdout.trim().split('\n');
    expect(JSON.parse(tensors!).map(([name, , shape]: [string, string, number[]]) => [name, shape])).toEqual(
      torchDTypes.map((name) => [name, [2]]),
    );
    expect(rest).toBe(
      `([1, -1, ${2 ** 40}, ${2n ** 100n}], (0.5, -0.0), {'text': 'ü'}, b'\\x00\\xff', 'Parameter', [[1.0, 2.0]])`,
    );
  });
});

describe('zip files that are no weights', () => {
  const weights = Buffer.from(`}\x8c\x01a${TENSOR}s.`, 'latin1');
  const opened = async (name: string, bytes: Uint8Array) => {
    const file = scratch('other.pth');
    const parts = [
      { name: 'archive/data.pkl', bytes: weights },
      { name: 'archive/data/0', bytes: new Uint8Array(4) },
    ];
    writeFileSync(file, zipFile([...parts, { name, bytes }]));
    return openTensorFile(file);
  };

  it.each([
    [
      'a TorchScript archive',
      'archive/code/__torch__.py',
      'x = 1',
      /TorchScript archive, which contains program code/,
    ],
    ['its constants', 'archive/constants.pkl', 'x', /TorchScript archive/],
    [
      'numbers of another order',
      'archive/byteorder',
      'big',
      /expected little-endian numbers, got byte order "big"/,
    ],
    [
      'an entry outside its folder',
      'elsewhere',
      'x',
      /expected every zip entry inside "archive\/", got "elsewhere"/,
    ],
  ])('are refused: %s', async (_, name, content, reason) => {
    await expect(opened(name, Buffer.from(content))).rejects.toThrow(reason);
  });

  it('are read where they say that they are', async () => {
    expect([...(await opened('archive/byteorder', Buffer.from('little'))).tensors.keys()]).toEqual(['a']);
  });
});
