/**
 * The noise that a model was trained with and what its UNet predicts, as its files say it: in the keys of diffusers'
 * scheduler_config.json. What a sampler makes of them is `sampling/`'s.
 */
import { FormatError } from '../errors.ts';
import { MAX_CONFIG_BYTES } from '../formats/json-file.ts';
import { parseJson } from '../formats/strict-json.ts';
import { readTextFile } from '../io/read-small-file.ts';

/** What the network's output is: the noise, the velocity √ᾱ·noise − √(1−ᾱ)·original, or the original itself. */
export const PREDICTION_TYPES = ['epsilon', 'v_prediction', 'sample'] as const;
export type PredictionType = (typeof PREDICTION_TYPES)[number];

/** Keys and values of a scheduler_config.json. */
export type ScheduleKeys = Readonly<Record<string, unknown>>;

export interface ModelSchedule {
  /** All that is known, chosen prediction included. */
  readonly config: ScheduleKeys;
  /** The file that said it, for messages. */
  readonly file: string;
  /** What the user said that the UNet predicts, in place of what the files say. */
  readonly chosenPrediction?: PredictionType;
}

/** The text of a scheduler_config.json. @throws {FormatError} if it cannot be read */
export function readSchedulerText(file: string): Promise<string> {
  return readTextFile(file, MAX_CONFIG_BYTES, 'a scheduler_config.json');
}

/** The contents of a scheduler_config.json as they are. @throws {FormatError} if it is not JSON */
export function parseSchedulerJson(text: string, file: string): unknown {
  // Python's `json` writes infinities as bare words.
  return parseJson(text.replace(/(:\s*)(-?Infinity)(?=\s*[,}])/g, '$1"$2"'), file);
}

/** The keys of a scheduler_config.json. @throws {FormatError} if it cannot be read, or is no JSON object */
export async function readScheduleKeys(file: string): Promise<ScheduleKeys> {
  const json = parseSchedulerJson(await readSchedulerText(file), file);
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new FormatError(file, 'expected a JSON object');
  }
  return json as ScheduleKeys;
}
