/** All commands, in the order in which help lists them. Each is loaded when it is needed: the start stays quick. */
import type { Command } from '../command.ts';

const loaders: ReadonlyMap<string, () => Promise<Command>> = new Map([
  ['fuse', async () => (await import('./fuse.ts')).fuseCommand],
  ['port', async () => (await import('./port.ts')).portCommand],
  ['collect', async () => (await import('./collect.ts')).collectCommand],
  ['train', async () => (await import('./train.ts')).trainCommand],
  ['deproject', async () => (await import('./deproject.ts')).deprojectCommand],
  ['sample', async () => (await import('./sample.ts')).sampleCommand],
  ['eval', async () => (await import('./eval.ts')).evalCommand],
  ['inspect', async () => (await import('./inspect.ts')).inspectCommand],
  ['merge', async () => (await import('./merge.ts')).mergeCommand],
  ['convert', async () => (await import('./convert.ts')).convertCommand],
  ['resize', async () => (await import('./resize.ts')).resizeCommand],
  ['extract', async () => (await import('./extract.ts')).extractCommand],
  ['bake', async () => (await import('./bake.ts')).bakeCommand],
  ['lint', async () => (await import('./lint.ts')).lintCommand],
  ['verify', async () => (await import('./verify.ts')).verifyCommand],
]);

/** The command that a verb names, `null` if none does. */
export async function loadCommand(verb: string): Promise<Command | null> {
  return (await loaders.get(verb)?.()) ?? null;
}

/** All commands: for help, and to say what a wrong word may have meant. */
export async function loadAllCommands(): Promise<readonly Command[]> {
  return Promise.all([...loaders.values()].map((load) => load()));
}
