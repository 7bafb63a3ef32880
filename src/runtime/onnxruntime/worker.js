// @ts-check
/**
 * The thread in which networks load and run: one request after the other. A thread that is ended while it is inside
 * onnxruntime takes the process down with it ("Napi::Error", exit code 134), so whoever ends one looks at its state first.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { free, load, run } from './sessions.js';

/** @typedef {import('../../tensor/tensor.ts').Tensor} Tensor */

const port = /** @type {import('node:worker_threads').MessagePort} */ (parentPort);
/** [whether a request is being worked on, whether no other may be begun] */
const state = new Int32Array(workerData.state);
/** @type {Map<number, Tensor>} */
const kept = new Map();

/** @type {Promise<void>} */
let before = Promise.resolve();
port.on('message', (request) => {
  before = before.then(() => answer(request));
});

/** @param {any} request */
async function answer(request) {
  Atomics.store(state, 0, 1);
  if (Atomics.load(state, 1) === 1) {
    rest();
    return;
  }
  /** @type {ArrayBuffer[]} */
  const transfer = [];
  let reply;
  try {
    const result = await perform(request);
    reply = { id: request.id, op: request.op, session: request.session, result };
    // Results of a run are nobody else's.
    if (request.op === 'run') {
      for (const { data } of Object.values(/** @type {Record<string, Tensor>} */ (result))) {
        transfer.push(/** @type {ArrayBuffer} */ (data.buffer));
      }
    }
  } catch (error) {
    reply = {
      id: request.id,
      op: request.op,
      session: request.session,
      error: error instanceof Error ? error.message : String(error),
    };
  }
  rest();
  if (request.id !== undefined) port.postMessage(reply, transfer);
}

function rest() {
  Atomics.store(state, 0, 0);
  Atomics.notify(state, 0);
}

/** @param {any} request */
function perform(request) {
  switch (request.op) {
    case 'load':
      return load(request.bytes, request.options);
    case 'run': {
      /** @type {Record<string, Tensor>} */
      const feeds = {};
      for (const [name, fed] of Object.entries(request.feeds)) {
        feeds[name] = typeof fed === 'number' ? /** @type {Tensor} */ (kept.get(fed)) : fed;
      }
      return run(
        request.session,
        feeds,
        Object.fromEntries(request.wanted.map((/** @type {string} */ name) => [name, null])),
      );
    }
    case 'free':
      return free(request.session);
    case 'keep':
      return void kept.set(request.key, request.tensor);
    case 'forget':
      return void kept.delete(request.key);
    case 'end':
      return void port.close();
  }
}
