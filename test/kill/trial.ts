/** A job made ready: what lies there before, what an undisturbed run makes of it; then one disturbance after the other. */
import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ownerMark } from '../../src/io/platform/process-owner.ts';
import { type Call, type Ended, runChild } from './child.ts';
import { type Disturbance, kindOf, millisecondsOf } from './disturbance.ts';
import { type Job, withoutTimes } from './jobs.ts';
import {
  type Contents,
  checkDone,
  checkInterrupted,
  checkSaid,
  checkUntouched,
  checkWhole,
  errorLine,
  type Fault,
  results,
  temporaries,
} from './rules.ts';
import { differences, isTemporary, part, type Snapshot, snapshot } from './snapshot.ts';

export interface TrialFolders {
  /** The script that lines are run with. */
  readonly program: string;
  /** What lines read. */
  readonly inputs: string;
  /** Beside `inputs`: where lines are run. Emptied before each. */
  readonly work: string;
  /** A run that takes longer hangs. */
  readonly hangMs?: number;
}

/** How one disturbance went. */
export interface Outcome {
  readonly faults: readonly Fault[];
  /** Whether it came before the end of the run. */
  readonly struck: boolean;
  /** In the code of the project, where that is known. */
  readonly place: string;
  readonly ended: readonly Ended[];
  readonly again: Ended | null;
}

const CODES: Readonly<Record<string, number>> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

/** Names of the user's in every folder of results. The last one is a living process's: of this one. */
const bystanderNames = (): string[] => [
  'notes.txt',
  '.hidden',
  'out.tmp',
  'backup/out.safetensors',
  'backup/.keep',
  `.out.${ownerMark()}-0123456789ab.tmp`,
  'cache/notes.txt',
];

export class Trial {
  readonly job: Job;
  readonly #folders: TrialFolders;
  readonly #template: string;
  readonly #inputs: Snapshot;
  readonly #contents: Contents;
  #rivals: Snapshot | undefined;
  /** Of the undisturbed run. */
  readonly calls: readonly Call[];
  readonly elapsedMs: number;

  private constructor(
    job: Job,
    folders: TrialFolders,
    template: string,
    inputs: Snapshot,
    contents: Contents,
    { calls, elapsedMs }: Ended,
  ) {
    this.job = job;
    this.#folders = folders;
    this.#template = template;
    this.#inputs = inputs;
    this.#contents = contents;
    this.calls = calls;
    this.elapsedMs = elapsedMs;
  }

  /** Run what came before, then the line undisturbed. @throws {Error} if one of these fails */
  static async prepare(job: Job, folders: TrialFolders): Promise<Trial> {
    const { work, inputs } = folders;
    const inputsBefore = snapshot(inputs);
    reset(work, null);
    for (const [i, line] of (job.before ?? []).entries()) {
      const last = i === job.before!.length - 1;
      if (last && job.cutShort !== undefined) await runLine(folders, line, { blow: job.cutShort });
      else expectDone(job, line, await runLine(folders, line));
    }
    for (const name of readdirSync(work)) {
      if (isTemporary(name)) rmSync(path.join(work, name), { recursive: true });
    }
    const names = [...bystanderNames(), ...(job.bystanders ?? [])];
    for (const name of names) {
      const file = path.join(work, name);
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, `the user's own ${name}\n`);
    }
    const template = `${work}.before-${job.name}`;
    cpSync(work, template, { recursive: true });
    const before = snapshot(work, withoutTimes);
    const bystanders = part(before, (name) => names.includes(name));
    const run = await runLine(folders, job.line(job.out));
    expectDone(job, job.line(job.out), run);
    const done = snapshot(work, withoutTimes);
    const contents = { before, done: [done], bystanders };
    return new Trial(job, folders, template, inputsBefore, contents, run);
  }

  /** What two runs at once can do to this job. */
  get twos(): string[] {
    return [
      'twice',
      ...(this.job.rival === undefined ? [] : ['rivals']),
      ...(this.job.cache === true ? ['cache'] : []),
    ];
  }

  /** What the rival makes, undisturbed. */
  async #runRival(): Promise<void> {
    if (this.#rivals !== undefined) return;
    reset(this.#folders.work, this.#template);
    expectDone(this.job, this.job.rival!, await this.#start(this.job.rival!, {}));
    this.#rivals = this.#look();
  }

  /** Disturb the line, look; run it again, look. */
  async run(disturbance: Disturbance, jitter: number): Promise<Outcome> {
    if (disturbance.how === 'rivals') await this.#runRival();
    reset(this.#folders.work, this.#template);
    const outcome =
      kindOf(disturbance) === 'two at once'
        ? await this.#two(disturbance, jitter)
        : await this.#one(disturbance);
    return {
      ...outcome,
      faults: [
        ...outcome.faults,
        ...checkUntouched(this.#inputs, snapshot(this.#folders.inputs)).map(asInput),
      ],
    };
  }

  async #one({ at, how }: Disturbance): Promise<Outcome> {
    const { job } = this;
    const ended = await this.#start(job.line(job.out), { blow: { at: millisecondsOf(at) ?? at, how } });
    const after = this.#look();
    const faults = this.#looks(after, this.#contents);
    const { code, signal, struck, hung } = ended;
    const killed = how === 'kill';
    if (hung) faults.push({ rule: 'hang', what: `did not end; ${lastWords(ended)}` });
    else if (killed && signal === 'SIGKILL') {
      // Nothing can be asked of it.
    } else if (how.startsWith('SIG') && signal === how.replace('+', '')) {
      // Before the program could say what it does with signals, nothing may have happened; after its last word, all of it.
      const nothing = ended.err === '' && differences(this.#contents.before, after).length === 0;
      if (!nothing && this.#accepted(ended, after, how).length > 0) {
        faults.push({ rule: 'said', what: `ended by ${how} without a word; ${lastWords(ended)}` });
      }
    } else if (code === 0) faults.push(...this.#accepted(ended, after, how));
    else if (how.startsWith('SIG')) {
      if (code !== CODES[how.replace('+', '')])
        faults.push({ rule: 'said', what: `ended with ${code ?? signal}: ${lastWords(ended)}` });
      faults.push(...checkInterrupted(ended), ...this.#noneLeft(after));
    } else {
      faults.push(...checkSaid(ended, job));
      if (!struck?.name.startsWith('unlink')) faults.push(...this.#noneLeft(after));
    }
    const again = await this.#again(after, faults);
    const tooLate = code === 0 && struck === null;
    return { faults, struck: !tooLate, place: struck?.place ?? '', ended: [ended], again };
  }

  /** It says that all went well: then it did. A cache that cannot be written is no failure. */
  #accepted({ struck }: Ended, after: Snapshot, how: string): Fault[] {
    const inCache =
      struck !== null && !how.startsWith('SIG') && this.#relative(struck.file).startsWith('cache/');
    const lenient = (of: Snapshot): Snapshot => part(of, (name) => !inCache || !name.startsWith('cache/'));
    const found = checkDone(this.job, this.#contents.before, lenient(after), {
      ...this.#contents,
      done: this.#contents.done.map(lenient),
    });
    return found
      .filter(({ what }) => !(struck?.name.startsWith('unlink') && what.endsWith('still there')))
      .map(({ what }) => ({ rule: 'said', what: `ended with 0, but ${what}` }));
  }

  async #two({ at, how }: Disturbance, jitter: number): Promise<Outcome> {
    const { job } = this;
    const own = job.line(job.out);
    const second = how === 'rivals' ? job.rival! : how === 'cache' ? job.line(renamed(job.out)) : own;
    const delayMs = millisecondsOf(at) ?? 0;
    const pair = await Promise.all([
      this.#start(own, { jitter }),
      new Promise((resolve) => setTimeout(resolve, delayMs)).then(() => this.#start(second, { jitter })),
    ]);
    const after = this.#look();
    const faults: Fault[] = [];
    for (const ended of pair) {
      if (ended.hung) faults.push({ rule: 'hang', what: `two at once did not end; ${lastWords(ended)}` });
      else if (ended.code !== 0) faults.push(...checkSaid(ended, job));
    }
    if (!pair.some(({ code }) => code === 0)) {
      faults.push({
        rule: 'said',
        what: `neither of two came to its end: ${pair.map(lastWords).join('; ')}`,
      });
    }
    faults.push(...this.#noneLeft(after));
    if (how === 'cache') {
      faults.push(...this.#secondTarget(after, pair));
      return { faults, struck: true, place: '', ended: pair, again: null };
    }
    const contents = {
      ...this.#contents,
      done: [...this.#contents.done, ...(how === 'rivals' ? [this.#rivals!] : [])],
    };
    faults.push(...this.#looks(after, contents));
    if (job.numbered === true) {
      const added = (state: Snapshot): number => results(state, this.#contents.bystanders).size;
      const base = added(this.#contents.before);
      const finished = pair.filter(({ code }) => code === 0).length;
      const expected = finished * (added(this.#contents.done[0]!) - base);
      if (added(after) - base !== expected) {
        faults.push({
          rule: 'whole',
          what: `expected ${expected} pictures of ${finished} runs, got ${added(after) - base}`,
        });
      }
    }
    const again = await this.#again(after, faults);
    return { faults, struck: true, place: '', ended: pair, again };
  }

  /** Two targets with the same content, and one cache as one run leaves it. */
  #secondTarget(after: Snapshot, pair: readonly Ended[]): Fault[] {
    const { out } = this.job;
    const other = renamed(out);
    const faults: Fault[] = pair
      .filter(({ code }) => code !== 0)
      .map((ended) => ({ rule: 'said', what: `one of two with the same cache failed: ${lastWords(ended)}` }));
    const [first, second] = [out, other].map((name) =>
      part(after, (file) => file === name || file.startsWith(`${name}/`)),
    );
    const moved = new Map([...second!].map(([name, entry]) => [out + name.slice(other.length), entry]));
    const rest = part(after, (name) => !second!.has(name));
    faults.push(...checkDone(this.job, this.#contents.before, rest, this.#contents));
    const wrong = differences(first!, moved);
    if (wrong.length > 0) faults.push({ rule: 'whole', what: `${wrong.join(', ')}: the two results differ` });
    return faults;
  }

  /** As a user would: the same line; where it is refused because of what is there, with the word it asks for. */
  async #again(start: Snapshot, faults: Fault[]): Promise<Ended | null> {
    const { job } = this;
    // Where nothing has changed, it is the undisturbed run once more.
    if (differences(start, this.#contents.before).length === 0) return null;
    const line = job.line(job.out);
    let ended = await this.#start(line, {});
    for (const word of job.insist ?? []) {
      if (ended.code !== 2) break;
      if (!/--(force|resume)/.test(ended.err)) {
        faults.push({ rule: 'again', what: `refused without a way out: ${lastWords(ended)}` });
      }
      ended = await this.#start([...line, word], {});
    }
    if (ended.hung) faults.push({ rule: 'hang', what: `run again, it did not end; ${lastWords(ended)}` });
    else if (ended.code !== 0) {
      faults.push({ rule: 'again', what: `run again, it ended with ${ended.code}: ${lastWords(ended)}` });
    } else {
      const after = this.#look();
      faults.push(...checkDone(job, start, after, this.#contents));
      faults.push(...this.#bystandersIn(after));
    }
    return ended;
  }

  #looks(after: Snapshot, contents: Contents): Fault[] {
    return [...checkWhole(this.job, this.#folders.work, after, contents), ...this.#bystandersIn(after)];
  }

  #bystandersIn(after: Snapshot): Fault[] {
    return checkUntouched(this.#contents.bystanders, after);
  }

  #noneLeft(after: Snapshot): Fault[] {
    return temporaries(after, this.#contents.bystanders).map((name) => ({
      rule: 'whole',
      what: `${name}: temporary, left by a run that could have removed it`,
    }));
  }

  #look(): Snapshot {
    return snapshot(this.#folders.work, withoutTimes);
  }

  #relative(file: string): string {
    return path.relative(this.#folders.work, file);
  }

  #start(line: readonly string[], more: RunMore): Promise<Ended> {
    return runLine(this.#folders, line, more);
  }
}

type RunMore = Omit<Parameters<typeof runChild>[0], 'argv' | 'folder'>;

/** Run a line where results go, with the cache among them. */
export function runLine(
  { program, inputs, work, hangMs }: TrialFolders,
  line: readonly string[],
  more: RunMore = {},
): Promise<Ended> {
  return runChild({
    argv: [program, ...line],
    folder: work,
    reads: inputs,
    env: { EDLORA_CACHE: path.join(work, 'cache') },
    hangMs,
    ...more,
  });
}

/** @throws {Error} unless a run that nothing disturbed came to its end */
export function expectDone(job: { readonly name: string }, line: readonly string[], ended: Ended): void {
  if (ended.code === 0) return;
  throw new Error(
    `${job.name}: undisturbed, ${line.join(' ')} ended with ${ended.code ?? ended.signal}:\n${ended.err}`,
  );
}

function reset(work: string, template: string | null): void {
  rmSync(work, { recursive: true, force: true });
  if (template === null) mkdirSync(work, { recursive: true });
  else cpSync(template, work, { recursive: true });
}

const renamed = (out: string): string => out.replace(/^out/, 'second');

const asInput = ({ rule, what }: Fault): Fault => ({ rule, what: `input ${what}` });

const lastWords = ({ err, code, signal }: Ended): string =>
  errorLine(err) || `${code ?? signal}, ${err.trim().slice(-200) || 'nothing said'}`;
