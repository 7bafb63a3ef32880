/** What files of this tool's own say they are, in `format` of their metadata, and what people call them. */
export const OWN_FILES = {
  'edlora-deprojector': 'deprojector',
  'edlora-text-states': 'states of a text encoder',
} as const;

export type OwnFormat = keyof typeof OWN_FILES;

/** What a file's metadata says it is; `null` if it is none of these. */
export function ownFormat(metadata: ReadonlyMap<string, string>): OwnFormat | null {
  const format = metadata.get('format');
  return format !== undefined && Object.hasOwn(OWN_FILES, format) ? (format as OwnFormat) : null;
}
