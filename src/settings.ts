/** Settings in two ways of leaving one out: absent, or undefined. Here both mean the same. */

/** The given settings without those that are undefined: for records that are written, or compared. */
export function defined<T extends object>(settings: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}

/** Defaults, and in their place what is given and not undefined. */
export function withDefaults<D extends object>(defaults: D, settings: Partial<D> = {}): D {
  return { ...defaults, ...defined(settings) };
}
