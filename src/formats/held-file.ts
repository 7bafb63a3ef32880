/**
 * A weight file kept open while its tensors are in use: everything is read from one file, even when another takes its name
 * meanwhile, as the result of a second process with the same job does.
 */
import { FormatError } from '../errors.ts';
import { locateFile, OpenFile } from '../io/file-range.ts';
import type { RawTensor } from './raw-tensor.ts';
import { openSafetensors } from './safetensors.ts';
import type { TensorFile } from './tensor-file.ts';

export interface HeldFile {
  readonly opened: TensorFile;
  /** Give the descriptor back; tensors cannot be read any more. Done by itself once nobody can ask for a tensor. */
  close(): void;
}

/** Files whose tensors were forgotten. */
const forgotten = new FinalizationRegistry<OpenFile>((file) => file.close());

/** Times that another file may take the name between two calls to the system before it is given up. */
const MAX_TRIES = 5;

/**
 * Open a safetensors file and keep it open.
 * @throws {FormatError} as `openSafetensors`
 */
export async function holdSafetensors(file: string): Promise<HeldFile> {
  for (let left = MAX_TRIES; ; left--) {
    // Says in our words what is wrong with a path that cannot be opened.
    const { path: absolute } = locateFile(file);
    const open = new OpenFile(absolute);
    try {
      const held = await holdingDescriptor(file, open);
      if (held !== null) return held;
    } catch (error) {
      open.close();
      throw error;
    }
    open.close();
    if (left === 0) throw new FormatError(file, 'changed again and again while it was opened; try again');
  }
}

/** `null` if the name was given to another file meanwhile. */
async function holdingDescriptor(file: string, open: OpenFile): Promise<HeldFile | null> {
  const source = open.identify();
  let found: TensorFile;
  try {
    found = await openSafetensors(file);
  } catch (error) {
    const now = locateFile(file);
    if (now.inode !== source.inode || now.modifiedNs !== source.modifiedNs) return null;
    throw error;
  }
  /** What all tensors reach, so that the descriptor lives as long as any of them. */
  const holder = { source, open };
  const tensors = new Map<string, RawTensor>();
  for (const [name, tensor] of found.tensors) {
    const { range, opened, sizeBytes } = tensor.storage;
    if (range === null || opened === undefined || opened.inode !== source.inode) return null;
    if (opened.modifiedNs !== source.modifiedNs || opened.device !== source.device) return null;
    const read = (begin: number, end: number, into?: Uint8Array<ArrayBuffer>): Uint8Array => {
      return holder.open.read(holder.source, range.offset + begin, range.offset + end, into);
    };
    // Without a range: nobody maps what another file of the same name may replace.
    const readLater = (begin: number, end: number, into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array> => {
      return holder.open.readLater(holder.source, range.offset + begin, range.offset + end, into);
    };
    tensors.set(name, { ...tensor, storage: { sizeBytes, range: null, opened, read, readLater } });
  }
  forgotten.register(holder, open);
  return { opened: { ...found, tensors }, close: () => open.close() };
}
