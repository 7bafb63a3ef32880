/** The settings of a training run as command line options, made from their schema: one source of names, kinds and texts. */
import type { Options } from 'yargs';
import { z } from 'zod';
import { UsageError } from '../../src/errors.ts';
import { type TrainingInput, trainingSchema } from '../../src/index.ts';
import { number, pairs, text, texts } from '../options.ts';

type Args = Readonly<Record<string, unknown>>;
type Name = keyof typeof trainingSchema.shape;
type Kind = 'number' | 'boolean' | 'text' | 'choice' | 'numbers by name';

const NAMES = Object.keys(trainingSchema.shape) as Name[];

/** `lrText` → `lr-text` */
const optionName = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Each group begins with this setting. */
const GROUPS: readonly (readonly [first: Name, title: string])[] = [
  ['method', 'What to train:'],
  ['steps', 'How long and how:'],
  ['lrEmbedding', 'Learning:'],
  ['factors', 'Factors:'],
  ['resolution', 'Pictures:'],
  ['prompt', 'Captions:'],
  ['masks', 'Loss:'],
  ['vectors', 'Words:'],
  ['priorWeight', 'Class pictures:'],
  ['saveEvery', 'Results:'],
];

/** The schema below optional and default wrappers. */
function inner(name: Name): { schema: z.core.$ZodType; standard: unknown } {
  let schema: z.core.$ZodType = trainingSchema.shape[name];
  let standard: unknown;
  while (schema instanceof z.ZodDefault || schema instanceof z.ZodOptional) {
    if (schema instanceof z.ZodDefault) standard = schema.def.defaultValue;
    schema = schema.def.innerType;
  }
  return { schema, standard };
}

function kindOf(name: Name): Kind {
  const { schema } = inner(name);
  if (schema instanceof z.ZodBoolean) return 'boolean';
  if (schema instanceof z.ZodEnum) return 'choice';
  if (schema instanceof z.ZodRecord) return 'numbers by name';
  return schema instanceof z.ZodNumber ? 'number' : 'text';
}

/** One option per setting. None has a default of its own: what is not given is left to the file and the method. */
export function settingOptions(): Record<string, Options> {
  let group = '';
  return Object.fromEntries(
    NAMES.map((name): [string, Options] => {
      group = GROUPS.find(([first]) => first === name)?.[1] ?? group;
      const { schema, standard } = inner(name);
      const shown =
        standard === undefined || standard === '' || typeof standard === 'object'
          ? ''
          : ` [default: ${standard}]`;
      const describe = `${trainingSchema.shape[name].description ?? ''}${shown}`;
      switch (kindOf(name)) {
        case 'boolean':
          return [optionName(name), { type: 'boolean', group, describe }];
        case 'choice':
          return [
            optionName(name),
            { choices: (schema as z.ZodEnum).options as string[], requiresArg: true, group, describe },
          ];
        case 'numbers by name':
          return [
            optionName(name),
            { type: 'string', array: true, requiresArg: true, group, describe: `${describe}: key=number` },
          ];
        default:
          return [optionName(name), { type: 'string', requiresArg: true, group, describe }];
      }
    }),
  );
}

/** The settings that were given. @throws {UsageError} for what is no number where one is wanted */
export function settingsFrom(args: Args): Partial<TrainingInput> {
  const settings: Record<string, unknown> = {};
  for (const name of NAMES) {
    const option = optionName(name);
    if (args[option] === undefined) continue;
    switch (kindOf(name)) {
      case 'boolean':
        settings[name] = args[option];
        break;
      case 'number':
        settings[name] = number(`--${option}`, text(args, option)!);
        break;
      case 'numbers by name':
        settings[name] = Object.fromEntries(
          [...pairs(option, texts(args, option))].map(([key, value]) => [
            key,
            number(`--${option} ${key}`, value),
          ]),
        );
        break;
      default:
        settings[name] = text(args, option);
    }
  }
  const wrong = NAMES.filter((name) => {
    const own = settings[name];
    return own !== undefined && !trainingSchema.shape[name].safeParse(own).success;
  });
  if (wrong.length > 0) {
    const told = wrong.map((name) => {
      const { error } = trainingSchema.shape[name].safeParse(settings[name]);
      return `--${optionName(name)}: ${error?.issues[0]?.message ?? 'wrong value'}`;
    });
    throw new UsageError(told.join('; '));
  }
  return settings;
}
