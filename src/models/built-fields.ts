/**
 * Schemas that take what is built here and refuse the rest: fields with a value that the graph does not honour, and fields
 * of a later day that are switched on.
 */
import { z } from 'zod';
import { jsonExcerpt } from '../formats/excerpt.ts';

const isAbsent = (value: unknown): boolean => value === undefined || value === null;

/**
 * A field that is absent, or has one of these values: the graph knows no other. A list of them, one a block, says the same.
 */
export const only = (...values: unknown[]) => {
  const isBuilt = (value: unknown): boolean => isAbsent(value) || values.includes(value);
  return z
    .unknown()
    .optional()
    .refine((value) => isBuilt(value) || (Array.isArray(value) && value.length > 0 && value.every(isBuilt)), {
      error: ({ input }) =>
        `expected ${values.map((value) => JSON.stringify(value)).join(' or ') || 'nothing'}, got ${jsonExcerpt(input)}; not built here`,
    });
};

/** Whether a field that nobody knows switches something on. */
function isOn(value: unknown): boolean {
  if (isAbsent(value) || value === false || value === 0 || value === '') return false;
  return !(typeof value === 'object' && Object.keys(value!).length === 0);
}

/**
 * A check that refuses the first field that is on and that is neither of the schema nor without effect. Names that begin
 * with an underscore are notes of the program that wrote them.
 */
export const onlyKnown =
  (fields: object, withoutEffect: ReadonlySet<string>) =>
  (json: Readonly<Record<string, unknown>>, context: z.RefinementCtx): void => {
    const unknown = Object.keys(json).find(
      (key) =>
        !(Object.hasOwn(fields, key) || withoutEffect.has(key) || key.startsWith('_')) && isOn(json[key]),
    );
    if (unknown === undefined) return;
    context.addIssue({
      code: 'custom',
      path: [unknown],
      message: `expected a field that is known here, got ${jsonExcerpt(json[unknown])}; if it changes nothing in the network, take it out of the file`,
    });
  };
