/**
 * A program that writes its results wrong on purpose, in the way of its first argument: what the tool must see. `right`
 * does it as it should be done.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

const [way, out] = process.argv.slice(2);
const CONTENT = 'the content of a result, long enough to be cut in two\n';

/** A temporary name as the project makes them; of a process that is gone, as soon as this one is. */
const temporary = (name) => `.${name}.00000000-${process.pid}-0-0123456789ab.tmp`;

function sweep() {
  for (const name of readdirSync('.')) {
    if (/\.00000000-\d+-0-0123456789ab\.tmp$/.test(name)) rmSync(name, { recursive: true });
  }
}

function right() {
  const own = temporary(out);
  sweep();
  try {
    writeFileSync(own, CONTENT);
    renameSync(own, out);
  } finally {
    rmSync(own, { force: true });
  }
}

const fails = (words) => {
  try {
    right();
  } catch (error) {
    process.stderr.write(words(error));
    process.exitCode = 1;
  }
};

const WAYS = {
  right: () => fails(() => `error: ${out}: cannot be written: the disk is full\n`),
  // An input that cannot be read has no name.
  reads: () => {
    try {
      readFileSync('../inputs/input.txt');
      right();
    } catch {
      process.stderr.write('error: an input cannot be read\n');
      process.exitCode = 3;
    }
  },
  // The result itself is written, from its beginning to its end.
  straight: () => writeFileSync(out, CONTENT),
  // Of two files in a folder that belong together, one after the other.
  'one-by-one': () => {
    mkdirSync(out, { recursive: true });
    for (const name of ['a', 'b']) {
      writeFileSync(temporary(name), CONTENT);
      renameSync(temporary(name), path.join(out, name));
    }
  },
  // The old result goes before the new one is there.
  'removes-first': () => {
    sweep();
    rmSync(out, { force: true });
    right();
  },
  // Somebody else's files change.
  meddles: () => {
    appendFileSync('notes.txt', 'and more');
    right();
  },
  'changes-input': () => {
    appendFileSync('../inputs/input.txt', 'and more');
    right();
  },
  // Temporary files stay, after failures and for good.
  litters: () => {
    try {
      writeFileSync(temporary(out), CONTENT);
      renameSync(temporary(out), out);
    } catch {
      process.stderr.write(`error: ${out}: cannot be written: the disk is full\n`);
      process.exitCode = 1;
    }
  },
  // What a killed run left goes into the result of the next one.
  'goes-on': () => {
    if (!existsSync('half.tmp')) writeFileSync('half.tmp', 'first\n');
    else appendFileSync('half.tmp', 'second\n');
    renameSync('half.tmp', out);
  },
  // A second run is refused for good.
  stubborn: () => {
    if (existsSync('lock')) {
      process.stderr.write(`error: ${out}: somebody is at it\n`);
      process.exit(2);
    }
    writeFileSync('lock', '');
    right();
    rmSync('lock');
  },
  defect: () => fails((error) => `error: ${error.message} (a defect in edlora)\n`),
  mumbles: () => fails(() => 'error: something went wrong\n'),
  'names-temporary': () => fails(() => `error: ${temporary(out)}: cannot be written: the disk is full\n`),
  claims: () => {
    try {
      right();
    } catch {
      // Nobody is told.
    }
  },
  // Signals are taken for a good end.
  deaf: () => {
    process.on('SIGINT', () => process.exit(0));
    writeFileSync(temporary(out), CONTENT);
    setTimeout(() => renameSync(temporary(out), out), 500);
  },
  hangs: () => {
    try {
      right();
    } catch {
      setInterval(() => undefined, 1000);
    }
  },
};

WAYS[way]();
