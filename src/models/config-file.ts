/** Reading config.json files: parsed, checked against a schema, with errors that name file and field. */

import type { z } from 'zod';
import { FormatError } from '../errors.ts';
import { MAX_CONFIG_BYTES, readJsonFile } from '../formats/json-file.ts';
import { safeParse } from '../formats/safe-parse.ts';

/**
 * Parse a JSON config. Fields the schema does not name are ignored, as other tools write many of their own.
 * @throws {FormatError} when the file is missing, is no JSON, or a field has another type than expected
 */
export async function readConfig<T extends z.ZodType>(file: string, schema: T): Promise<z.output<T>> {
  const json = await readJsonFile(file, MAX_CONFIG_BYTES, 'a configuration as diffusers writes it');
  const result = safeParse(schema, json);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new FormatError(file, `${issue.path.join('.') || 'top level'}: ${issue.message}`, {
    cause: result.error,
  });
}
