/** Reading config.json files: parsed, checked against a schema, with errors that name file and field. */
import { readFile } from 'node:fs/promises';
import type { z } from 'zod';
import { FormatError } from '../errors.ts';

/**
 * Parse a JSON config. Fields the schema does not name are ignored, as other tools write many of their own.
 * @throws {FormatError} when the file is missing, is no JSON, or a field has another type than expected
 */
export async function readConfig<T extends z.ZodType>(file: string, schema: T): Promise<z.output<T>> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new FormatError(file, missing ? 'no such file; is this a diffusers folder?' : 'expected JSON', {
      cause,
    });
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new FormatError(file, `${issue.path.join('.') || 'top level'}: ${issue.message}`, {
    cause: result.error,
  });
}
