/** Options of `fuse` and `collect` that say which features are collected, and where they are kept. */
import type { Options } from 'yargs';
import {
  type CollectOptions,
  cacheFolder,
  DEFAULTS,
  type FusionOptions,
  type GivenOption,
  idleOptionNotes,
  UsageError,
} from '../../src/index.ts';
import { number, text, texts } from '../options.ts';

type Args = Readonly<Record<string, unknown>>;

export const collectOptions = {
  prompt: {
    type: 'string',
    array: true,
    requiresArg: true,
    group: 'Features:',
    describe: `Prompts that speak for a concept, {} for its words [default: ${DEFAULTS.promptTemplates.map((prompt) => `"${prompt}"`).join(' ')}]`,
  },
  steps: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: `Denoising steps whose features are collected [default: ${DEFAULTS.steps}]`,
  },
  runs: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: `Denoising runs per concept [default: ${DEFAULTS.runs}]`,
  },
  guidance: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: `Guidance of those runs; 1: by the prompt alone [default: ${DEFAULTS.guidanceScale}]`,
  },
  contrast: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: `Weight of what the prompt changes against the empty prompt; 1: none [default: ${DEFAULTS.contrast}]`,
  },
  width: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: 'Pixels of the pictures of those runs [default: the base’s own]',
  },
  height: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: 'Likewise; one needs the other',
  },
  seed: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe: `Seed of the noise [default: ${DEFAULTS.seed}]`,
  },
  cache: {
    type: 'string',
    requiresArg: true,
    group: 'Features:',
    describe:
      'Folder where statistics are kept for the next fusion; --no-cache: nowhere [default: EDLORA_CACHE, or the platform’s cache folder]',
  },
} as const satisfies Record<string, Options>;

/** The library's names of options. */
const GIVEN: Readonly<Record<string, GivenOption>> = {
  contrast: 'contrast',
  guidance: 'guidanceScale',
  iterations: 'iterations',
  preserve: 'preserve',
  'preserve-captions': 'preserveCaptions',
  'rank-share': 'rankShare',
  ridge: 'ridge',
  runs: 'runs',
  steps: 'steps',
};

/** What was given on the command line and changes nothing, one note each. */
export function idleNotes(args: Args, options: FusionOptions): string[] {
  const given = Object.entries(GIVEN).flatMap(([name, option]) => (args[name] === undefined ? [] : [option]));
  return idleOptionNotes(options, given);
}

/** Features over defaults. @throws {UsageError} for what is no number, or no size */
export function readCollectOptions(args: Args, defaults: CollectOptions): CollectOptions {
  const numberOf = (name: string, fallback: number): number => {
    const value = text(args, name);
    return value === undefined ? fallback : number(`--${name}`, value);
  };
  const prompts = texts(args, 'prompt');
  return {
    statistics: defaults.statistics,
    promptTemplates: prompts.length === 0 ? defaults.promptTemplates : prompts,
    steps: numberOf('steps', defaults.steps),
    runs: numberOf('runs', defaults.runs),
    guidanceScale: numberOf('guidance', defaults.guidanceScale),
    contrast: numberOf('contrast', defaults.contrast),
    seed: numberOf('seed', defaults.seed),
    size: pictureSize(args) ?? defaults.size,
  };
}

/** Folder of stored statistics; `null` for none. */
export function readCacheFolder(args: Args): string | null {
  return args.cache === false ? null : (text(args, 'cache') ?? cacheFolder());
}

/** `null` where no size is given. @throws {UsageError} for one side alone */
function pictureSize(args: Args): { width: number; height: number } | null {
  const [width, height] = [text(args, 'width'), text(args, 'height')];
  if (width === undefined && height === undefined) return null;
  if (width === undefined || height === undefined) {
    throw new UsageError('--width and --height: expected both of them');
  }
  return { width: number('--width', width), height: number('--height', height) };
}
