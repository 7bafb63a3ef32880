/**
 * Loaded before a program (`node --require`): counts what it changes below one folder, and at one of these calls kills
 * it, has the call fail, or sends it a signal. Settings by environment variables:
 *
 *     KILL_WATCH   folder; calls on other paths are neither counted nor touched
 *     KILL_READ    folder; opening a file below it to read is a call, too
 *     KILL_LOG     file that gets a line per call: kind:number, tab, path; and the stack of the disturbed one
 *     KILL_AT      kind:number of the call, from 1
 *     KILL_HOW     kill, a signal, or an errno (ENOSPC, …); with a "+" all later writing calls fail, too, or the signal
 *                  comes once more at the next call
 *     KILL_JITTER  seed: every call waits for up to JITTER_MS before it is made
 */
const fs = require('node:fs');
const { syncBuiltinESMExports } = require('node:module');
const { constants } = require('node:os');
const path = require('node:path');
const { fileURLToPath } = require('node:url');

const {
  KILL_WATCH: watched,
  KILL_READ: readFrom,
  KILL_LOG: log,
  KILL_AT: at,
  KILL_HOW: how = 'kill',
  KILL_JITTER: jitter,
} = process.env;
const JITTER_MS = 20;

/** Kinds that a full or read-only disk refuses for good. */
const WRITING = new Set(['open', 'write', 'fsync', 'mkdir', 'copy', 'link']);

const { appendFileSync, writeSync } = fs;
const counts = new Map();
let failsFromNow = false;
let signalsAgain = false;

/** Count a call. @returns the error it has to fail with, or null; does not return where it is killed */
function met(kind, file, torn) {
  wait();
  const n = (counts.get(kind) ?? 0) + 1;
  counts.set(kind, n);
  const name = `${kind}:${n}`;
  if (log) appendFileSync(log, `${name}\t${file}\n`);
  if (name !== at) {
    if (signalsAgain) process.kill(process.pid, how.replace('+', ''));
    signalsAgain = false;
    return failsFromNow && WRITING.has(kind) ? failure(kind, file) : null;
  }
  if (log) appendFileSync(log, `#\t${JSON.stringify(new Error().stack)}\n`);
  if (how === 'kill') {
    torn?.();
    process.kill(process.pid, 'SIGKILL');
    // The signal may take a moment; nothing more must happen until then.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10_000);
  }
  if (how.startsWith('SIG')) {
    process.kill(process.pid, how.replace('+', ''));
    signalsAgain = how.endsWith('+');
    return null;
  }
  if (how.endsWith('+')) failsFromNow = true;
  torn?.();
  return failure(kind, file);
}

function failure(kind, file) {
  const code = how.replace('+', '');
  const number = constants.errno[code];
  const syscall = { copy: 'copyfile', read: 'open' }[kind] ?? kind;
  // As Node has it: calls on a descriptor do not tell a path.
  const where = kind === 'write' || kind === 'fsync' ? '' : ` '${file}'`;
  const error = new Error(
    `${code}: ${code === 'ENOSPC' ? 'no space left on device' : 'made to fail'}, ${syscall}${where}`,
  );
  return Object.assign(error, { errno: -number, code, syscall }, where === '' ? {} : { path: file });
}

let state = Number(jitter ?? 0) + process.pid;
function wait() {
  if (jitter === undefined) return;
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, (state / 2 ** 32) * JITTER_MS);
}

/** The absolute path, if it lies below the watched folder. */
function below(file, folder = watched) {
  if (typeof file !== 'string' && !(file instanceof URL) && !Buffer.isBuffer(file)) return null;
  const full = path.resolve(file instanceof URL ? fileURLToPath(file) : String(file));
  return full.startsWith(folder + path.sep) ? full : null;
}

/** The error that opening a file to read has. */
function readError(file) {
  const full = readFrom === undefined ? null : below(file, readFrom);
  return full === null ? null : met('read', full);
}

function opensForWriting(flags = 'r') {
  return typeof flags === 'number'
    ? (flags & (fs.constants.O_WRONLY | fs.constants.O_RDWR | fs.constants.O_CREAT)) !== 0
    : !/^r?s?$/.test(flags);
}

/** Functions that take the path they change, and which argument that is. */
const BY_PATH = {
  rename: ['rename', 1],
  link: ['link', 1],
  symlink: ['link', 1],
  unlink: ['unlink', 0],
  rm: ['unlink', 0],
  rmdir: ['unlink', 0],
  mkdir: ['mkdir', 0],
  copyFile: ['copy', 1],
  truncate: ['write', 0],
  chmod: ['chmod', 0],
};

function patch() {
  const { promises } = fs;
  const descriptors = new Map();
  for (const [name, [kind, place]] of Object.entries(BY_PATH)) {
    const [plain, sync, promised] = [fs[name], fs[`${name}Sync`], promises[name]];
    const error = (args) => {
      const file = below(args[place]);
      return file === null ? null : met(kind, file);
    };
    fs[name] = (...args) => {
      const found = error(args);
      return found === null ? plain(...args) : queueMicrotask(() => args.at(-1)(found));
    };
    fs[`${name}Sync`] = (...args) => {
      const found = error(args);
      if (found !== null) throw found;
      return sync(...args);
    };
    promises[name] = async (...args) => {
      const found = error(args);
      if (found !== null) throw found;
      return promised(...args);
    };
  }

  const { openSync, closeSync, fsyncSync, fdatasyncSync } = fs;
  fs.openSync = (file, flags, ...rest) => {
    const writes = opensForWriting(flags);
    const full = writes ? below(file) : null;
    const error = writes ? full && met('open', full) : readError(file);
    if (error !== null) throw error;
    const descriptor = openSync(file, flags, ...rest);
    if (full !== null) descriptors.set(descriptor, full);
    return descriptor;
  };
  fs.closeSync = (descriptor) => {
    descriptors.delete(descriptor);
    return closeSync(descriptor);
  };
  fs.writeSync = (descriptor, data, ...rest) => {
    const full = descriptors.get(descriptor);
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    const error =
      full === undefined
        ? null
        : met('write', full, () => writeSync(descriptor, bytes, 0, bytes.byteLength >> 1));
    if (error !== null) throw error;
    return writeSync(descriptor, data, ...rest);
  };
  for (const [name, original] of [
    ['fsyncSync', fsyncSync],
    ['fdatasyncSync', fdatasyncSync],
  ]) {
    fs[name] = (descriptor) => {
      const full = descriptors.get(descriptor);
      const error = full === undefined ? null : met('fsync', full);
      if (error !== null) throw error;
      return original(descriptor);
    };
  }
  const whole = (flags) => (file, data, options) => {
    const descriptor = fs.openSync(file, options?.flag ?? flags, options?.mode ?? 0o666);
    try {
      fs.writeSync(descriptor, typeof data === 'string' ? Buffer.from(data) : data);
    } finally {
      fs.closeSync(descriptor);
    }
  };
  const { writeFileSync, appendFileSync: appendSync } = fs;
  fs.writeFileSync = (file, ...rest) =>
    below(file) === null ? writeFileSync(file, ...rest) : whole('w')(file, ...rest);
  fs.appendFileSync = (file, ...rest) =>
    below(file) === null ? appendSync(file, ...rest) : whole('a')(file, ...rest);

  // What streams and some packages use.
  const { open: openLater, readFileSync } = fs;
  fs.open = (file, ...rest) => {
    const error = opensForWriting(typeof rest[0] === 'function' ? 'r' : rest[0]) ? null : readError(file);
    return error === null ? openLater(file, ...rest) : queueMicrotask(() => rest.at(-1)(error));
  };
  fs.readFileSync = (file, ...rest) => {
    const error = readError(file);
    if (error !== null) throw error;
    return readFileSync(file, ...rest);
  };

  const { open, readFile, writeFile, appendFile } = promises;
  promises.readFile = async (file, ...rest) => {
    const error = readError(file);
    if (error !== null) throw error;
    return readFile(file, ...rest);
  };
  promises.open = async (file, flags, ...rest) => {
    const full = below(file);
    const writes = opensForWriting(flags);
    const changes = full !== null && writes;
    const error = changes ? met('open', full) : writes ? null : readError(file);
    if (error !== null) throw error;
    const handle = await open(file, flags, ...rest);
    return changes ? watch(handle, full) : handle;
  };
  const wholeLater = (flags) => async (file, data, options) => {
    const handle = await promises.open(file, options?.flag ?? flags, options?.mode ?? 0o666);
    try {
      await handle.write(typeof data === 'string' ? Buffer.from(data) : data);
    } finally {
      await handle.close();
    }
  };
  promises.writeFile = (file, ...rest) =>
    below(file) === null ? writeFile(file, ...rest) : wholeLater('w')(file, ...rest);
  promises.appendFile = (file, ...rest) =>
    below(file) === null ? appendFile(file, ...rest) : wholeLater('a')(file, ...rest);

  syncBuiltinESMExports();
}

/** Methods of an open file that change it. */
function watch(handle, file) {
  const instead = (name, kind, torn) => {
    const original = handle[name].bind(handle);
    handle[name] = async (...args) => {
      const error = met(kind, file, torn === undefined ? undefined : () => torn(...args));
      if (error !== null) throw error;
      return original(...args);
    };
  };
  // A write that does not come to its end has left the half of it.
  const half = (data, options) => {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    const [from, length] =
      typeof options === 'number' ? [options, bytes.byteLength - options] : [0, bytes.byteLength];
    if (length > 1) writeSync(handle.fd, bytes, from, length >> 1);
  };
  instead('write', 'write', half);
  instead('writeFile', 'write', (data) => half(data));
  instead('appendFile', 'write', (data) => half(data));
  instead('writev', 'write');
  instead('truncate', 'write');
  instead('sync', 'fsync');
  instead('datasync', 'fsync');
  instead('chmod', 'chmod');
  return handle;
}

if (watched) patch();
