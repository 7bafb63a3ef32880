// @ts-check
/**
 * Sessions of onnxruntime by number: load, run, free. Plain JavaScript that needs nothing of this project, since it runs in
 * the calling thread and in a thread of its own (worker.js), which Node 20 starts from no TypeScript.
 */
import ort from 'onnxruntime-node';

/** @typedef {import('../../tensor/tensor.ts').Tensor} Tensor */
/** @typedef {import('../../tensor/tensor.ts').TensorData} TensorData */

/** @type {Map<number, ort.InferenceSession>} */
const sessions = new Map();
let made = 0;

/**
 * Load an encoded graph.
 * @param {Uint8Array} bytes
 * @param {ort.InferenceSession.SessionOptions} options
 * @returns {Promise<number>} its number
 */
export async function load(bytes, options) {
  const session = await ort.InferenceSession.create(bytes, options);
  sessions.set(++made, session);
  return made;
}

/**
 * One run.
 * @param {number} number
 * @param {Readonly<Record<string, Tensor>>} feeds
 * @param {Readonly<Record<string, Tensor | null>>} outputs what is wanted; over a tensor's array, or over one of the runtime's
 * @returns {Promise<Record<string, Tensor>>}
 */
export async function run(number, feeds, outputs) {
  const session = /** @type {ort.InferenceSession} */ (sessions.get(number));
  const results = await session.run(
    Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, toOrt(tensor)])),
    Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor && toOrt(tensor)])),
  );
  return Object.fromEntries(Object.entries(results).map(([name, result]) => [name, fromOrt(result)]));
}

/**
 * Free a session's memory.
 * @param {number} number
 */
export async function free(number) {
  await sessions.get(number)?.release();
  sessions.delete(number);
}

/** @param {Tensor} tensor */
function toOrt({ dtype, data, shape }) {
  return new ort.Tensor(/** @type {'float32'} */ (dtype), /** @type {Float32Array} */ (data), shape);
}

/**
 * @param {ort.Tensor} result
 * @returns {Tensor}
 */
function fromOrt({ type, dims, data: given }) {
  // Newer runtimes of JavaScript have an array type for halves; here they are bits.
  const data =
    type === 'float16' && ArrayBuffer.isView(given)
      ? new Uint16Array(given.buffer, given.byteOffset, given.byteLength / 2)
      : given;
  return {
    dtype: /** @type {Tensor['dtype']} */ (type),
    shape: dims,
    data: /** @type {TensorData} */ (data),
  };
}
