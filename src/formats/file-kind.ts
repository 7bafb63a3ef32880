/**
 * What a file is by its first bytes, whatever its name says; and the words for what people hand over by
 * mistake: a saved web page, a Git LFS pointer, an unfinished download.
 */
import { FormatError } from '../errors.ts';
import { latin1Text } from '../io/bytes.ts';
import { readFileRange, type SourceFile } from '../io/file-range.ts';

export type FileKind = 'safetensors' | 'zip' | 'torch-legacy' | 'json' | 'other';

const SNIFF_BYTES = 1024;

/** A pickle that starts with PROTO and LONG1: what PyTorch before 1.6 opens its files with. */
const LEGACY_START = [
  0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e,
];

/**
 * Tell a file's kind by its content.
 * @throws {FormatError} if it is empty or certainly no weight file; the message says what it is instead
 */
export function detectFileKind(name: string, source: SourceFile): FileKind {
  const { sizeBytes } = source;
  if (sizeBytes === 0)
    throw new FormatError(name, 'expected a weight file, got an empty one (0 bytes); failed download?');
  const head = readFileRange(source, 0, Math.min(sizeBytes, SNIFF_BYTES));
  const startsWith = (...codes: number[]) => codes.every((code, i) => head[i] === code);
  // First of all, since a header length may spell the start of anything: 0x80 is also a pickle's first byte.
  if (head[8] === 0x7b && head[5] === 0 && head[6] === 0 && head[7] === 0) return 'safetensors';
  if (startsWith(0x50, 0x4b, 0x03, 0x04) || startsWith(0x50, 0x4b, 0x05, 0x06)) return 'zip';
  if (startsWith(...LEGACY_START)) return 'torch-legacy';
  const text = latin1Text(head);
  if (text.startsWith('version https://git-lfs.github.com/')) {
    const size = /\nsize (\d{1,15})/.exec(text)?.[1];
    const real = size === undefined ? '' : ` of the real file of ${size} bytes`;
    throw new FormatError(
      name,
      `expected a weight file, got a Git LFS pointer${real}; run "git lfs pull", or download it from its page`,
    );
  }
  // Legacy files of another protocol, or cut inside the magic number, are pickles too.
  if (head[0] === 0x80 && head[1]! <= 5) throw bareOrDamagedPickle(name, head, sizeBytes);
  if (text.slice(257, 262) === 'ustar') {
    throw new FormatError(
      name,
      'expected a torch zip, got the tar container of PyTorch before 0.1.10, which is not read; load it in an old PyTorch and save it again',
    );
  }
  if (head[8] === 0x7b) return 'safetensors';
  const start = text
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart()
    .toLowerCase();
  if (/^<(!doctype|html|head|body|\?xml|!--)/.test(start)) {
    throw new FormatError(
      name,
      'expected a weight file, got a web page (HTML) saved under this name; the download asked for a login or was refused: open its address in a browser',
    );
  }
  if (start.startsWith('{') || start.startsWith('[')) return 'json';
  const known = KNOWN_STARTS.find(([, ...codes]) => startsWith(...codes));
  if (known) throw new FormatError(name, `expected a weight file (safetensors, torch), got ${known[0]}`);
  return 'other';
}

const KNOWN_STARTS: readonly (readonly [string, ...number[]])[] = [
  ['a GGUF file; use the safetensors version of the model', 0x47, 0x47, 0x55, 0x46],
  ['a PNG image', 0x89, 0x50, 0x4e, 0x47],
  ['a JPEG image', 0xff, 0xd8, 0xff],
  ['a gzip archive; unpack it first', 0x1f, 0x8b],
  ['a 7z archive; unpack it first', 0x37, 0x7a, 0xbc, 0xaf],
  ['a RAR archive; unpack it first', 0x52, 0x61, 0x72, 0x21],
  ['an HDF5 file', 0x89, 0x48, 0x44, 0x46],
  ['a NumPy array', 0x93, 0x4e, 0x55, 0x4d],
];

function bareOrDamagedPickle(name: string, head: Uint8Array, sizeBytes: number): FormatError {
  if (LEGACY_START.every((code, i) => i >= head.length || head[i] === code)) {
    return new FormatError(
      name,
      `expected a torch file, got only the first ${sizeBytes} bytes of one; truncated download?`,
    );
  }
  return new FormatError(
    name,
    'expected a torch file (zip, or pickle with the torch magic number), got another Python pickle; it is not opened, since such files can run code in Python',
  );
}
