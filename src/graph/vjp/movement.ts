/** Gradients of operators that only move numbers: they move them back. */
import { NoGradientError } from '../../errors.ts';
import type { MovementOp } from '../ops/movement.ts';
import { concat, gather, reshape, scatterRows, slice, split, transpose } from '../ops/movement.ts';
import { normalAxis } from '../ops/rule.ts';
import type { Value } from '../value.ts';
import { only, sumTo, type Vjps, zerosLike } from './rule.ts';

export const movementVjps: Vjps<MovementOp> = {
  Reshape: (g, { inputs: [x] }, dys) => [reshape(g, only(dys), x!.shape)],
  Transpose: (g, { attributes: { perm } }, dys) => {
    const inverse = perm.map((_, axis) => perm.findIndex((from) => normalAxis(from, perm.length) === axis));
    return [transpose(g, only(dys), inverse)];
  },
  Concat: (g, { inputs, attributes: { axis } }, dys, needs) => {
    const dy = only(dys);
    const along = normalAxis(axis, dy.shape.length);
    if (needs.filter(Boolean).length > 1) {
      return split(
        g,
        dy,
        inputs.map((input) => input!.shape[along]!),
        axis,
      );
    }
    let start = 0;
    return inputs.map((input, i) => {
      const end = start + input!.shape[along]!;
      const part = needs[i] ? slice(g, dy, along, start, end) : null;
      start = end;
      return part;
    });
  },
  Split: (g, { outputs, attributes: { axis } }, dys) => {
    const known = dys.find((dy) => dy !== null)!;
    const parts = outputs.map((output, i) => dys[i] ?? zerosLike(g, known, output.shape));
    return [concat(g, parts, axis)];
  },
  Slice: (g, { inputs: [x], attributes: { axis, start, end } }, dys) => {
    const dy = only(dys);
    const along = normalAxis(axis, x!.shape.length);
    const size = x!.shape[along]!;
    const zeros = (count: number): Value[] =>
      count === 0 ? [] : [zerosLike(g, dy, dy.shape.with(along, count))];
    const parts = [...zeros(start), dy, ...zeros(size - end)];
    return [parts.length === 1 ? dy : concat(g, parts, along)];
  },
  Gather: (g, node, dys) => {
    const [data, indices] = node.inputs as [Value, Value];
    if (indices.dtype !== 'int64') {
      throw new NoGradientError(`Gather "${node.name}": expected int64 indices, got ${indices.dtype}`);
    }
    const along = normalAxis(node.attributes.axis, data.shape.length);
    const picked = indices.shape.length;
    const dy = only(dys);
    // The index axes first, rows added up, then the row axis back to its place.
    const axes = dy.shape.map((_, i) => i);
    const front = [
      ...axes.slice(along, along + picked),
      ...axes.slice(0, along),
      ...axes.slice(along + picked),
    ];
    const rows = scatterRows(g, along === 0 ? dy : transpose(g, dy, front), indices, data.shape[along]!);
    if (along === 0) return [rows, null];
    const back = data.shape.map((_, i) => (i < along ? i + 1 : i === along ? 0 : i));
    return [transpose(g, rows, back), null];
  },
  ScatterRows: (g, { inputs: [, indices] }, dys) => [gather(g, only(dys), indices!), null],
  Expand: (g, { inputs: [x] }, dys) => [sumTo(g, only(dys), x!.shape)],
};
