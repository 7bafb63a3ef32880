/** Operators that only move numbers. */
import { ShapeError } from '../../errors.ts';
import { sizeOf } from '../../tensor/tensor.ts';
import type { NodeWriter } from '../node-writer.ts';
import type { Value } from '../value.ts';
import { broadcastShapes, expectShape, normalAxis, required, type ShapeRules, sameDtype } from './rule.ts';

export type MovementOp =
  | 'Reshape'
  | 'Transpose'
  | 'Concat'
  | 'Split'
  | 'Slice'
  | 'Gather'
  | 'ScatterRows'
  | 'Expand';

export const movementShapes: ShapeRules<MovementOp> = {
  Reshape: (inputs, { shape }) => {
    const x = required(inputs, 0);
    if (shape.some((dim) => !Number.isInteger(dim) || dim < 0) || sizeOf(shape) !== sizeOf(x.shape)) {
      throw new ShapeError(`cannot reshape [${x.shape.join(', ')}] to [${shape.join(', ')}]`);
    }
    return [{ dtype: x.dtype, shape }];
  },
  Transpose: (inputs, { perm }) => {
    const x = required(inputs, 0);
    if (perm.length !== x.shape.length || new Set(perm).size !== perm.length) {
      throw new ShapeError(`[${perm.join(', ')}] is no permutation of ${x.shape.length} axes`);
    }
    return [{ dtype: x.dtype, shape: perm.map((axis) => x.shape[normalAxis(axis, perm.length)]!) }];
  },
  Concat: (inputs, { axis }) => {
    const first = required(inputs, 0);
    const along = normalAxis(axis, first.shape.length);
    const sizes = inputs.map((_, i) => {
      const part = required(inputs, i);
      expectShape(part, first.shape.with(along, part.shape[along] ?? 0), `part ${i}`);
      return part.shape[along]!;
    });
    return [
      {
        dtype: sameDtype(inputs),
        shape: first.shape.with(
          along,
          sizes.reduce((a, b) => a + b, 0),
        ),
      },
    ];
  },
  Split: (inputs, { axis, sizes }) => {
    const x = required(inputs, 0);
    const along = normalAxis(axis, x.shape.length);
    if (sizes.reduce((a, b) => a + b, 0) !== x.shape[along]) {
      throw new ShapeError(`parts of ${sizes.join(' + ')} do not make up axis ${axis} of ${x.shape[along]}`);
    }
    return sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.with(along, size) }));
  },
  Slice: (inputs, { axis, start, end }) => {
    const x = required(inputs, 0);
    const along = normalAxis(axis, x.shape.length);
    if (!(start >= 0 && start < end && end <= x.shape[along]!)) {
      throw new ShapeError(`[${start}, ${end}) lies outside axis ${axis} of ${x.shape[along]}`);
    }
    return [{ dtype: x.dtype, shape: x.shape.with(along, end - start) }];
  },
  Gather: (inputs, { axis }) => {
    const data = required(inputs, 0);
    const indices = required(inputs, 1);
    if (indices.dtype !== 'int64' && indices.dtype !== 'int32') {
      throw new ShapeError(`indices: expected int64 or int32, got ${indices.dtype}`);
    }
    const along = normalAxis(axis, data.shape.length);
    return [
      {
        dtype: data.dtype,
        shape: [...data.shape.slice(0, along), ...indices.shape, ...data.shape.slice(along + 1)],
      },
    ];
  },
  ScatterRows: (inputs, { size }) => {
    const rows = required(inputs, 0);
    const indices = required(inputs, 1);
    if (indices.dtype !== 'int64') throw new ShapeError(`indices: expected int64, got ${indices.dtype}`);
    const lead = indices.shape.length;
    expectShape({ dtype: rows.dtype, shape: rows.shape.slice(0, lead) }, indices.shape, 'rows');
    return [{ dtype: rows.dtype, shape: [size, ...rows.shape.slice(lead)] }];
  },
  Expand: (inputs, { shape }) => {
    const x = required(inputs, 0);
    expectShape({ dtype: x.dtype, shape: broadcastShapes(x.shape, shape) }, shape, 'target');
    return [{ dtype: x.dtype, shape }];
  },
};

/** The same numbers in the same order under another shape. */
export function reshape(g: NodeWriter, x: Value, shape: readonly number[]): Value {
  return g.node('Reshape', [x], { shape })[0]!;
}

/** Axis i of the result is axis perm[i] of x. */
export function transpose(g: NodeWriter, x: Value, perm: readonly number[]): Value {
  return g.node('Transpose', [x], { perm })[0]!;
}

export function concat(g: NodeWriter, parts: readonly Value[], axis: number): Value {
  return g.node('Concat', parts, { axis })[0]!;
}

export function split(g: NodeWriter, x: Value, sizes: readonly number[], axis: number): readonly Value[] {
  return g.node('Split', [x], { axis, sizes });
}

/** Elements [start, end) along one axis. */
export function slice(g: NodeWriter, x: Value, axis: number, start: number, end: number): Value {
  return g.node('Slice', [x], { axis, start, end })[0]!;
}

/** Rows of `data` along `axis`; the axes of `indices` take its place. */
export function gather(g: NodeWriter, data: Value, indices: Value, axis = 0): Value {
  return g.node('Gather', [data, indices], { axis })[0]!;
}

/** Adds rows [...I, ...rest] into `size` rows of zeros at `indices` [...I]; equal indices add up. */
export function scatterRows(g: NodeWriter, rows: Value, indices: Value, size: number): Value {
  return g.node('ScatterRows', [rows, indices], { size })[0]!;
}

/** x broadcast to `shape`. */
export function expand(g: NodeWriter, x: Value, shape: readonly number[]): Value {
  return g.node('Expand', [x], { shape })[0]!;
}
