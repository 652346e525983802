/** Splits SQL into words to colour, loses no character, and never fails: what it does not know is plain. */
export interface Token {
  kind: 'word' | 'keyword' | 'string' | 'number' | 'comment' | 'plain';
  text: string;
}

const KEYWORDS = new Set(
  (
    'select from where and or not as in is null like between group by order having limit offset join left right full ' +
    'inner outer cross on using union all distinct case when then else end asc desc nulls first last with over ' +
    'partition interval timestamp cast true false exists explain show describe values'
  ).split(' '),
);

const PATTERN = /(--[^\n]*)|('(?:[^']|'')*'?)|("(?:[^"]|"")*"?)|(\d+(?:\.\d+)?)|([A-Za-z_]\w*)|(\s+)|([^])/g;

export function tokens(sql: string): Token[] {
  const out: Token[] = [];
  for (const m of sql.matchAll(PATTERN)) {
    const text = m[0];
    if (m[1] !== undefined) out.push({ kind: 'comment', text });
    else if (m[2] !== undefined) out.push({ kind: 'string', text });
    else if (m[4] !== undefined) out.push({ kind: 'number', text });
    else if (m[5] !== undefined)
      out.push({ kind: KEYWORDS.has(text.toLowerCase()) ? 'keyword' : 'word', text });
    else out.push({ kind: 'plain', text });
  }
  return out;
}

export interface Spot {
  line: number;
  column: number;
  text: string;
  mark: string;
}

/**
 * The line a span starts in, with a line of carets under the words it covers. The node counts bytes of
 * UTF-8. Null when the span is all of the text: then there is nothing to point at.
 */
export function caret(text: string, span: { start: number; end: number }): Spot | null {
  const utf8 = new TextEncoder().encode(text);
  const characters = (end: number) => new TextDecoder().decode(utf8.subarray(0, Math.max(0, end))).length;
  const start = characters(span.start);
  const end = characters(span.end);
  if (start === 0 && end >= text.length) return null;
  const begin = text.lastIndexOf('\n', start - 1) + 1;
  const stop = text.indexOf('\n', start);
  const line = text.slice(begin, stop === -1 ? undefined : stop);
  const before = line.slice(0, start - begin);
  const under = line.slice(start - begin, Math.max(start + 1, end) - begin);
  return {
    line: text.slice(0, begin).split('\n').length,
    column: [...before].length + 1,
    text: line,
    mark: widths(before, ' ', '\u3000') + (widths(under, '^', '^^') || '^'),
  };
}

/** One sign a character; Chinese characters are as wide as two. */
function widths(text: string, narrow: string, wide: string): string {
  return [...text].map((c) => (c.codePointAt(0)! > 0x2e7f ? wide : narrow)).join('');
}

/** The text with other words in the place of those that a span covers (in bytes of UTF-8). */
export function replaced(text: string, span: { start: number; end: number }, words: string): string {
  const utf8 = new TextEncoder().encode(text);
  const part = (from: number, to?: number) => new TextDecoder().decode(utf8.subarray(from, to));
  return part(0, Math.max(0, span.start)) + words + part(Math.max(0, span.end));
}

/** As a sentence begins, unless it begins with a name or an address. */
export function sentence(text: string): string {
  return /^[a-z]+(?=[ ,;:]\s|\s|$)/.test(text) ? text[0]!.toUpperCase() + text.slice(1) : text;
}

/** A relation's name as SQL: quoted only when it must be. */
export function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
