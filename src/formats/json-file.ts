/** JSON files read whole: regular, of a stated size, with no key twice. */
import { readTextFile, readTextFileSync } from '../io/read-small-file.ts';
import { parseJson } from './strict-json.ts';

/** Configurations, indices and recipes take kilobytes; a report of a large run a few megabytes. */
export const MAX_CONFIG_BYTES = 4 << 20;

/**
 * What a JSON file holds.
 * @param what what the caller expects, for messages, e.g. "a scheduler_config.json"
 * @throws {FormatError} if it is missing, a device, larger than `maxBytes`, or not JSON as `parseJson` has it
 */
export async function readJsonFile(
  file: string,
  maxBytes = MAX_CONFIG_BYTES,
  what = 'a JSON file',
): Promise<unknown> {
  return parseJson(await readTextFile(file, maxBytes, what), file);
}

/** `readJsonFile` without waiting. @throws as `readJsonFile` */
export function readJsonFileSync(file: string, maxBytes = MAX_CONFIG_BYTES, what = 'a JSON file'): unknown {
  return parseJson(readTextFileSync(file, maxBytes, what), file);
}
