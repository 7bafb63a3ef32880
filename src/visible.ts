/**
 * Characters that steer a terminal or a page instead of being seen, made visible. The one place through which text of files
 * goes on its way to a person. Imports nothing.
 */

/** C0, DEL and C1; formats (bidirectional controls, zero width, byte order mark); line and paragraph separators; half pairs. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
/** The same, save what separates lines and columns. */
const UNSEEN_IN_LINES = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** `\u001b` and the like: as JSON writes them, so that a document stays the same document. */
function escaped(character: string): string {
  let text = '';
  for (let i = 0; i < character.length; i++) {
    text += `\\u${character.charCodeAt(i).toString(16).padStart(4, '0')}`;
  }
  return text;
}

/** One line of text, whatever it holds: line feeds and tabs are escaped too. */
export function visible(text: string): string {
  return text.replace(UNSEEN, escaped);
}

/** Lines of text: line feeds and tabs stay. */
export function visibleLines(text: string): string {
  return text.replace(UNSEEN_IN_LINES, escaped);
}
