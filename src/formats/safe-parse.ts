/** Values of files against a schema. */
import { z } from 'zod';

/**
 * As `schema.safeParse(value)`, for values that a file chose. The library asks whatever has a `length` for it, and a file may
 * give one that no number can be made of: such a value is refused like any other of the wrong kind.
 */
export function safeParse<S extends z.ZodType>(schema: S, value: unknown): z.ZodSafeParseResult<z.output<S>> {
  try {
    return schema.safeParse(value);
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    const issue = {
      code: 'custom' as const,
      path: [],
      message: 'expected values of other kinds',
      input: value,
    };
    return { success: false, error: new z.ZodError([issue]) as z.ZodError<z.output<S>> };
  }
}
