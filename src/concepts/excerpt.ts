/** Text from files as messages quote it: enough to recognise it by, whatever its length. */

/** Characters of a quotation at most. */
const LENGTH = 120;

/** The text itself, or its beginning and how much more there is. */
export function excerpt(text: string): string {
  return text.length <= LENGTH ? text : `${text.slice(0, LENGTH)}… (${text.length} characters)`;
}
