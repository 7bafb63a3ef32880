/** From stored tensors to the parameters of a network under today's diffusers names. */
import { type RawTensor, sliceRows } from '../../formats/raw-tensor.ts';

/** A parameter's name; one of a matrix that is stored the other way round says so. */
export type StoredName = string | { readonly transposed: string };

/**
 * What a stored tensor holds, by its name: mostly one parameter; several lie row after row in equal shares (fused attention);
 * none, if it is not of this network.
 */
export type ReadNames = (stored: string) => readonly StoredName[];

/** Of a map between single names. */
export const oneName =
  (translate: (stored: string) => string | null): ReadNames =>
  (stored) => {
    const name = translate(stored);
    return name === null ? [] : [name];
  };

/** Names that begin with `prefix`, without it. */
export const belowPrefix =
  (prefix: string, translate: (rest: string) => string | null): ReadNames =>
  (stored) =>
    stored.startsWith(prefix) ? oneName(translate)(stored.slice(prefix.length)) : [];

/** One parameter in a stored tensor. */
export interface HeldParameter {
  readonly name: string;
  /** A view of it; the stored tensor itself where that holds nothing else. */
  readonly tensor: RawTensor;
  /** Where its rows begin. */
  readonly firstRow: number;
  /** Whether its rows are the stored tensor's columns. */
  readonly transposed: boolean;
}

/** The parameters in a stored tensor; none where rows do not divide by their number, or what is no matrix is transposed. */
export function heldParameters(stored: RawTensor, names: readonly StoredName[]): HeldParameter[] {
  const rows = (stored.shape[0] ?? 1) / Math.max(1, names.length);
  if (!Number.isInteger(rows)) return [];
  return names.flatMap((own, i): HeldParameter[] => {
    const tensor = names.length === 1 ? stored : sliceRows(stored, i * rows, rows);
    if (typeof own === 'string') return [{ name: own, tensor, firstRow: i * rows, transposed: false }];
    if (names.length > 1 || tensor.shape.length !== 2) return [];
    const { shape, strides } = tensor;
    const view = { ...tensor, shape: shape.toReversed(), strides: strides.toReversed() };
    return [{ name: own.transposed, tensor: view, firstRow: 0, transposed: true }];
  });
}
