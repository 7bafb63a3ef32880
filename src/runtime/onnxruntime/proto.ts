/**
 * ONNX protobuf messages, encoded field by field on protobuf's wire writer. Knows no operators.
 * Source of the field numbers: onnx/onnx.proto (IR version 10).
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';

/** TensorProto.DataType */
export const ELEMENT_TYPES = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16,
} as const;
export type ElementType = keyof typeof ELEMENT_TYPES;

export type OnnxAttribute = number | string | readonly number[] | { readonly float: number };

export interface OnnxNode {
  readonly opType: string;
  readonly domain: string;
  readonly name: string;
  /** An empty string stands for an optional input left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Plain numbers and lists are integers; wrap a float as `{ float }`. */
  readonly attributes: Readonly<Record<string, OnnxAttribute>>;
}

export interface OnnxTensor {
  readonly name: string;
  readonly dtype: ElementType;
  readonly shape: readonly number[];
  /** The numbers themselves, or where they lie: a file name inside the session's folder, bytes. */
  readonly data: Uint8Array | { readonly location: string; readonly offset: number; readonly length: number };
}

export interface OnnxValueInfo {
  readonly name: string;
  readonly dtype: ElementType;
  readonly shape: readonly number[];
}

export interface OnnxModel {
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
  readonly opsets: Readonly<Record<string, number>>;
}

type Write = (writer: BinaryWriter) => void;

const text = (writer: BinaryWriter, field: number, value: string): void => {
  writer.tag(field, WireType.LengthDelimited).string(value);
};
const integer = (writer: BinaryWriter, field: number, value: number): void => {
  writer.tag(field, WireType.Varint).int64(value);
};
const message = (writer: BinaryWriter, field: number, write: Write): void => {
  writer.tag(field, WireType.LengthDelimited).fork();
  write(writer);
  writer.join();
};

function attribute(writer: BinaryWriter, name: string, value: OnnxAttribute): void {
  text(writer, 1, name);
  if (typeof value === 'number') {
    integer(writer, 3, value);
    integer(writer, 20, 2);
  } else if (typeof value === 'string') {
    text(writer, 4, value);
    integer(writer, 20, 3);
  } else if ('float' in value) {
    writer.tag(2, WireType.Bit32).float(value.float);
    integer(writer, 20, 1);
  } else {
    for (const item of value) integer(writer, 8, item);
    integer(writer, 20, 7);
  }
}

function node(writer: BinaryWriter, { opType, domain, name, inputs, outputs, attributes }: OnnxNode): void {
  for (const input of inputs) text(writer, 1, input);
  for (const output of outputs) text(writer, 2, output);
  text(writer, 3, name);
  text(writer, 4, opType);
  for (const [key, value] of Object.entries(attributes)) message(writer, 5, (w) => attribute(w, key, value));
  if (domain !== '') text(writer, 7, domain);
}

function tensor(writer: BinaryWriter, { name, dtype, shape, data }: OnnxTensor): void {
  for (const dim of shape) integer(writer, 1, dim);
  integer(writer, 2, ELEMENT_TYPES[dtype]);
  text(writer, 8, name);
  if (data instanceof Uint8Array) {
    writer.tag(9, WireType.LengthDelimited).bytes(data);
    return;
  }
  for (const [key, value] of Object.entries(data)) {
    message(writer, 13, (w) => {
      text(w, 1, key);
      text(w, 2, String(value));
    });
  }
  integer(writer, 14, 1);
}

function valueInfo(writer: BinaryWriter, { name, dtype, shape }: OnnxValueInfo): void {
  text(writer, 1, name);
  message(writer, 2, (type) =>
    message(type, 1, (tensorType) => {
      integer(tensorType, 1, ELEMENT_TYPES[dtype]);
      message(tensorType, 2, (dims) => {
        for (const dim of shape) message(dims, 1, (w) => dim >= 0 && integer(w, 1, dim));
      });
    }),
  );
}

/** The bytes of a ModelProto. */
export function encodeModel(model: OnnxModel): Uint8Array {
  const writer = new BinaryWriter();
  integer(writer, 1, 10);
  text(writer, 2, 'edlora');
  message(writer, 7, (graph) => {
    for (const item of model.nodes) message(graph, 1, (w) => node(w, item));
    text(graph, 2, 'graph');
    for (const item of model.initializers) message(graph, 5, (w) => tensor(w, item));
    for (const item of model.inputs) message(graph, 11, (w) => valueInfo(w, item));
    for (const item of model.outputs) message(graph, 12, (w) => valueInfo(w, item));
  });
  for (const [domain, version] of Object.entries(model.opsets)) {
    message(writer, 8, (w) => {
      if (domain !== '') text(w, 1, domain);
      integer(w, 2, version);
    });
  }
  return writer.finish();
}
