/**
 * A graph as ONNX bytes. Weights become external data: (file, offset, length) inside the user's own files.
 * The runtime looks for external files in one folder only, or takes external data from memory, never both. So
 * weights that lie elsewhere, or not in one uncompressed run, travel inside the message; if no weight can be
 * mapped at all (a compressed checkpoint), all are handed over in memory.
 */
import { realpathSync } from 'node:fs';
import path from 'node:path';
import { FormatError } from '../../errors.ts';
import { byteRangeOf, readBytes, verifyStorages } from '../../formats/raw-tensor.ts';
import type { Graph } from '../../graph/graph.ts';
import { checkUnchanged, type FileIdentity } from '../../io/file-identity.ts';
import type { Steps } from '../../pace.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { Emitter } from './lowering.ts';
import { encodeModel, type OnnxNode, type OnnxTensor } from './proto.ts';
import { CPU_TARGET, type LoweringTarget, lower } from './targets.ts';
import { withCastsFirst } from './widened-weights.ts';

export interface EncodedGraph {
  readonly bytes: Uint8Array;
  /** The folder that external locations are relative to; `null` when no weight lies in a file. */
  readonly weightFolder: string | null;
  /** Weights handed over in memory, by location; empty when `weightFolder` is set. */
  readonly inMemory: readonly { readonly location: string; readonly data: Uint8Array }[];
  /** The files that weights are mapped from, as they were when they were opened. */
  readonly mapped: readonly FileIdentity[];
}

export interface EncodeOptions {
  /** Weights stay in their files, for the runtime to map; off: all are handed over in memory. Default true. */
  readonly mapWeights?: boolean;
  /** A weight of half width is widened for each node that reads it, and not once for all. Default false. */
  readonly widenAnew?: boolean;
  /** Where the graph is going to run. Default: the CPU. */
  readonly target?: LoweringTarget;
}

/** Protobuf messages end at 2 GB. */
const MAX_EMBEDDED_BYTES = 2 ** 30;

const bytesOf = ({ data }: Tensor): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/**
 * Encode `graph`, in steps: weights that are not mapped are read meanwhile.
 * @throws {FormatError} when a weight cannot be read, its file has changed since it was opened, or too many lie outside the
 *   model's folder
 */
export function* encodeGraph(
  graph: Graph,
  { mapWeights = true, widenAnew = false, target = CPU_TARGET }: EncodeOptions = {},
): Steps<EncodedGraph> {
  const nodes: OnnxNode[] = [];
  const initializers: OnnxTensor[] = graph.constants.map(({ value, tensor }) => ({
    name: value.name,
    dtype: tensor.dtype,
    shape: tensor.shape,
    data: bytesOf(tensor),
  }));
  // What is deflated is checked when it is read.
  yield* verifyStorages(graph.weights.flatMap(({ raw }) => (raw.storage.range === null ? [] : [raw])));
  const { placed, weightFolder, inMemory, mapped } = yield* placeWeights(graph, mapWeights);
  checkUnchanged(mapped);
  initializers.push(...placed);

  const shared = new Map<string, string>();
  const small = (kind: 'int64' | 'float32', values: readonly number[]): string => {
    const key = `${kind}:${values.join()}`;
    let name = shared.get(key);
    if (name === undefined) {
      name = `lowering/${kind}_${shared.size}`;
      shared.set(key, name);
      const data = kind === 'int64' ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
      initializers.push({ name, dtype: kind, shape: [values.length], data: new Uint8Array(data.buffer) });
    }
    return name;
  };
  for (const node of withCastsFirst(graph, { anew: widenAnew })) {
    let part = 0;
    const emitter: Emitter = {
      emit: (opType, inputs, { attributes = {}, outputs, domain = '' } = {}) => {
        const name = `${node.name}~${part++}`;
        const results = outputs ?? [name];
        nodes.push({ opType, domain, name, inputs, outputs: results, attributes });
        return results[0]!;
      },
      ints: (values) => small('int64', values),
      floats: (values) => small('float32', values),
    };
    lower(emitter, node, target);
  }
  for (const [name, value] of graph.outputs) {
    nodes.push({
      opType: 'Identity',
      domain: '',
      name: `output/${name}`,
      inputs: [value.name],
      outputs: [`output:${name}`],
      attributes: {},
    });
  }
  const outputs = [...graph.outputs].map(([name, { dtype, shape }]) => ({
    name: `output:${name}`,
    dtype,
    shape,
  }));
  const bytes = encodeModel({ nodes, initializers, inputs: graph.inputs, outputs, opsets: target.opsets });
  return { bytes, weightFolder, inMemory, mapped };
}

function* placeWeights(
  graph: Graph,
  mapWeights: boolean,
): Steps<{
  placed: OnnxTensor[];
  weightFolder: string | null;
  inMemory: { location: string; data: Uint8Array }[];
  mapped: FileIdentity[];
}> {
  // Links that leave the folder are refused by the runtime, so folders are those of the real files.
  const realPaths = new Map<string, string>();
  const real = (file: string): string => {
    let target = realPaths.get(file);
    if (target === undefined) {
      target = realpathSync(file);
      realPaths.set(file, target);
    }
    return target;
  };
  const ranges = graph.weights.map(({ raw }) => (mapWeights ? byteRangeOf(raw) : null));
  const bytesPerFolder = new Map<string, number>();
  for (const range of ranges) {
    if (range === null) continue;
    const folder = path.dirname(real(range.file));
    bytesPerFolder.set(folder, (bytesPerFolder.get(folder) ?? 0) + range.length);
  }
  const weightFolder = [...bytesPerFolder].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
  const inMemory: { location: string; data: Uint8Array }[] = [];
  const mapped = new Set<FileIdentity>();
  let embeddedBytes = 0;
  const placed: OnnxTensor[] = [];
  for (const [i, { value, raw }] of graph.weights.entries()) {
    const { name, dtype, shape } = value;
    const range = ranges[i];
    if (range && path.dirname(real(range.file)) === weightFolder) {
      const location = path.basename(real(range.file));
      if (raw.storage.opened !== undefined) mapped.add(raw.storage.opened);
      placed.push({ name, dtype, shape, data: { location, offset: range.offset, length: range.length } });
      continue;
    }
    yield;
    const data = readBytes(raw);
    if (weightFolder !== null) {
      embeddedBytes += data.length;
      if (embeddedBytes > MAX_EMBEDDED_BYTES) {
        throw new FormatError(
          range?.file ?? raw.name,
          `expected the model's weights in one folder (${weightFolder}), got over 1 GB elsewhere; move the files together`,
        );
      }
      placed.push({ name, dtype, shape, data });
      continue;
    }
    const location = `memory-${inMemory.length}`;
    // What was read for this is handed over; what others may share is copied.
    inMemory.push({ location, data: range === null && raw.storage.range === null ? data.slice() : data });
    placed.push({ name, dtype, shape, data: { location, offset: 0, length: data.length } });
  }
  return { placed, weightFolder, inMemory, mapped: [...mapped] };
}
