/** What is done to a command, as it stands on the command line of `npm run test:kill`. */
import type { Random } from '../fuzz/random.ts';
import type { Call } from './child.ts';

export const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const ERRORS = ['ENOSPC', 'EIO', 'EACCES', 'EMFILE'] as const;

/**
 * `kill` and signals at a call (`rename:2`) or a time (`734ms`); an errno at a call, with "+" for all later ones too, and `SIGINT+` for a second one;
 * `twice` (the same line at once), `rivals` (another line to the same target), `cache` (another target, the same cache)
 * with a time between their starts.
 */
export interface Disturbance {
  readonly at: string;
  readonly how: string;
}

/** What counts are kept by. */
export type Kind = 'killed at a call' | 'killed at a time' | 'failed call' | 'signal' | 'two at once';

export const KINDS: readonly Kind[] = [
  'killed at a call',
  'killed at a time',
  'failed call',
  'signal',
  'two at once',
];

export const TWOS = ['twice', 'rivals', 'cache'] as const;

export function kindOf({ at, how }: Disturbance): Kind {
  if ((TWOS as readonly string[]).includes(how)) return 'two at once';
  if (how.startsWith('SIG')) return 'signal';
  if (how !== 'kill') return 'failed call';
  return millisecondsOf(at) === null ? 'killed at a call' : 'killed at a time';
}

/** Of `734ms`; `null` for a call. */
export function millisecondsOf(at: string): number | null {
  const digits = /^(\d+)ms$/.exec(at)?.[1];
  return digits === undefined ? null : Number(digits);
}

/** What is worth trying on a command. */
export interface Possible {
  readonly calls: readonly Call[];
  /** Of an undisturbed run. */
  readonly elapsedMs: number;
  readonly twos: readonly string[];
}

/** Endless: every class in turn, within a class first every call once, in the seed's order. */
export function* disturbances(random: Random, { calls, elapsedMs, twos }: Possible): Generator<Disturbance> {
  const time = (): string => `${random.below(Math.ceil(elapsedMs * 1.1))}ms`;
  // Reading changes nothing: there is nothing in it to be cut.
  const changing = calls.map(({ name }) => name).filter((name) => !name.startsWith('read:'));
  const killed = inTurn(random, changing);
  const failed = inTurn(
    random,
    calls.flatMap(({ name }) => errorsOf(name).map((how) => ({ at: name, how }))),
  );
  const signalled = inTurn(random, changing);
  // Commands begin at different classes, so that a short run has met all of them.
  const classes = shuffled(random, ['call', 'failure', 'signal', 'failure', 'two', 'time'] as const);
  for (let round = 0; ; round++) {
    for (const next of classes) {
      if (next === 'time') yield { at: time(), how: 'kill' };
      else if (next === 'call') yield { at: killed.next().value ?? time(), how: 'kill' };
      else if (next === 'failure') yield failed.next().value ?? { at: time(), how: 'kill' };
      else if (next === 'signal') {
        const at = round % 2 === 0 ? time() : (signalled.next().value ?? time());
        const twice = millisecondsOf(at) === null && random.chance(1 / 3);
        yield { at, how: twice ? 'SIGINT+' : random.pick(SIGNALS) };
      } else yield { at: `${random.pick([0, 0, random.below(200)])}ms`, how: random.pick(twos) };
    }
  }
}

/** Errors that a kind of call may have. */
export function errorsOf(call: string): string[] {
  const kind = call.split(':')[0]!;
  if (kind === 'read') return ['EIO', 'EACCES', 'EMFILE'];
  const fitting = ERRORS.filter((error) => error !== 'EMFILE' || kind === 'open' || kind === 'copy');
  return kind === 'unlink' || kind === 'chmod' ? ['EIO', 'EACCES'] : [...fitting, 'ENOSPC+', 'EACCES+'];
}

/** All items in random order, again and again. Kinds of calls take turns, so that many of one do not hide few of another. */
function* inTurn<T extends string | { readonly at: string }>(
  random: Random,
  items: readonly T[],
): Generator<T> {
  const kindOfItem = (item: T): string => (typeof item === 'string' ? item : item.at).split(':')[0]!;
  if (items.length === 0) return;
  for (;;) {
    const queues = new Map<string, T[]>();
    for (const item of shuffled(random, items)) {
      const kind = kindOfItem(item);
      queues.set(kind, [...(queues.get(kind) ?? []), item]);
    }
    while (queues.size > 0) {
      for (const [kind, queue] of [...queues]) {
        yield queue.shift()!;
        if (queue.length === 0) queues.delete(kind);
      }
    }
  }
}

export function shuffled<T>(random: Random, items: readonly T[]): T[] {
  const all = [...items];
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all;
}
