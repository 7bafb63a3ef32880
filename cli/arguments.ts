/**
 * The library's messages name its own arguments and calls, as `force`, `layers: linear` or `convertFile` between backticks.
 * Here they become what the user types.
 */

/** Arguments whose options have other names; all others have their own, in the command line's spelling. */
export const OPTION_OF: Readonly<Record<string, string>> = {
  addends: 'with',
  cacheFolder: 'cache',
  configFolder: 'base-config',
  guidanceScale: 'guidance',
  negative2: 'negative-2',
  program: 'for',
  renameTokens: 'rename',
  search: 'inputs',
  strengths: 'sum',
  withLeanWeights: 'lean',
  words: 'name',
};

/** Arguments that have an option of the same name. */
export const ARGUMENTS: readonly string[] = [
  'base',
  'checkpoint',
  'clip',
  'combine',
  'contrast',
  'crop',
  'data',
  'deprojector',
  'drop',
  'embed',
  'eta',
  'force',
  'format',
  'grid',
  'guidanceRescale',
  'iterations',
  'layers',
  'method',
  'name',
  'negative',
  'originalSize',
  'prediction',
  'preserve',
  'preserveCaptions',
  'prompt',
  'rank',
  'rankShare',
  'refine',
  'resume',
  'ridge',
  'runs',
  'sampleEvery',
  'states',
  'steps',
  'token',
  'word',
];

export const COMMAND_OF: Readonly<Record<string, string>> = {
  collectStatistics: 'edlora collect',
  convertFile: 'edlora convert',
  deprojectParts: 'edlora deproject',
  trainDeprojector: 'edlora deproject',
};

/** A message of the library in the words of the command line. */
export function asTyped(message: string): string {
  return message.replace(/`(\w+)(?:: ([^`]*))?`/g, (written, name: string, value: string | undefined) => {
    const typed = COMMAND_OF[name] ?? optionFor(name);
    return typed === null ? written : value === undefined ? typed : `${typed} ${value}`;
  });
}

/** A message of the library without advice that needs options which a command lacks. @param options of the command */
export function usefulIn(options: ReadonlySet<string>, message: string): string {
  const [first, ...advice] = message.split('; ');
  return [first, ...advice.filter((clause) => isUseful(clause, options))].join('; ');
}

/** Whether the options that a clause names are the command's, or another command's that it names too. */
function isUseful(clause: string, options: ReadonlySet<string>): boolean {
  const names = [...clause.matchAll(/`(\w+)(?:: [^`]*)?`/g)].map(([, name]) => name!);
  if (names.some((name) => COMMAND_OF[name] !== undefined)) return true;
  return names.every((name) => {
    const option = optionFor(name);
    return option === null || options.has(option.slice(2));
  });
}

function optionFor(name: string): string | null {
  const other = OPTION_OF[name];
  if (other !== undefined) return `--${other}`;
  if (!ARGUMENTS.includes(name)) return null;
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
