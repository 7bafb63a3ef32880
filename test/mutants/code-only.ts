/** A source with everything blanked that is no code: comments, strings, patterns, types. Positions stay. */

/** Where a regular expression may begin: after these, `/` is no division. */
const BEFORE_PATTERN = /(^|[(,=:[!&|?{};\n]|=>|\breturn)\s*$/;

export function codeOnly(source: string): string {
  return blankTypes(blankText(source));
}

const blank = (text: string): string => text.replace(/[^\n]/g, ' ');

/** Comments, strings, template literals with what they contain, and regular expressions. */
function blankText(source: string): string {
  let out = '';
  for (let at = 0; at < source.length; ) {
    const end = textEnd(source, at, out);
    out += end > at ? blank(source.slice(at, end)) : source[at];
    at = Math.max(end, at + 1);
  }
  return out;
}

/** The end of a text that begins at `at`; `at` itself if none does. */
function textEnd(source: string, at: number, before: string): number {
  const rest = source.slice(at, at + 2);
  if (rest === '//') return indexOr(source, '\n', at);
  if (rest === '/*') return indexOr(source, '*/', at) + 2;
  if (source[at] === "'" || source[at] === '"') return quotedEnd(source, at, source[at]!);
  if (source[at] === '`') return templateEnd(source, at);
  if (source[at] === '/' && BEFORE_PATTERN.test(before.slice(-80))) return patternEnd(source, at);
  return at;
}

const indexOr = (source: string, wanted: string, from: number): number => {
  const found = source.indexOf(wanted, from);
  return found < 0 ? source.length : found;
};

function quotedEnd(source: string, at: number, quote: string): number {
  for (let i = at + 1; i < source.length; i++) {
    if (source[i] === '\\') i++;
    else if (source[i] === quote) return i + 1;
  }
  return source.length;
}

function templateEnd(source: string, at: number): number {
  for (let i = at + 1; i < source.length; i++) {
    if (source[i] === '\\') i++;
    else if (source[i] === '`') return i + 1;
    else if (source.startsWith('${', i)) i = bracesEnd(source, i + 1) - 1;
  }
  return source.length;
}

/** The end of what the brace at `at` opens; strings and templates inside may hold braces. */
function bracesEnd(source: string, at: number): number {
  let depth = 0;
  for (let i = at; i < source.length; ) {
    const end = /['"`]/.test(source[i]!) ? textEnd(source, i, ' ') : i;
    if (end === i) {
      if (source[i] === '{') depth++;
      if (source[i] === '}' && --depth === 0) return i + 1;
    }
    i = Math.max(end, i + 1);
  }
  return source.length;
}

function patternEnd(source: string, at: number): number {
  let inClass = false;
  for (let i = at + 1; i < source.length && source[i] !== '\n'; i++) {
    if (source[i] === '\\') i++;
    else if (source[i] === '[') inClass = true;
    else if (source[i] === ']') inClass = false;
    else if (source[i] === '/' && !inClass) {
      let end = i + 1;
      while (/[a-z]/.test(source[end] ?? '')) end++;
      return end;
    }
  }
  return at;
}

/** Imports, interfaces and type aliases. Of text without strings: braces are code there. */
function blankTypes(code: string): string {
  let out = code.replace(/^import [^;]*;/gm, blank).replace(/^export (type )?\{[^;]*;/gm, blank);
  for (const match of [...out.matchAll(/^\s*(?:export |declare )*(?:interface \w[^{]*|type \w[^=;]*=)/gm)]) {
    const begin = match.index;
    const isInterface = match[0].includes('interface');
    const end = isInterface ? bracesEnd(out, begin + match[0].length) : aliasEnd(out, begin);
    out = out.slice(0, begin) + blank(out.slice(begin, end)) + out.slice(end);
  }
  return out;
}

/** A type alias ends at the first semicolon outside of brackets. */
function aliasEnd(code: string, begin: number): number {
  let depth = 0;
  for (let i = begin; i < code.length; i++) {
    if (/[{([]/.test(code[i]!)) depth++;
    else if (/[})\]]/.test(code[i]!)) depth--;
    else if (code[i] === ';' && depth === 0) return i + 1;
  }
  return code.length;
}
