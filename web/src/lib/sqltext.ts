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

/** The line a span starts in, with a caret line under the words it covers. */
export function caret(
  text: string,
  span: { start: number; end: number },
): { line: number; column: number; text: string; mark: string } {
  const start = Math.min(Math.max(0, span.start), text.length);
  const begin = text.lastIndexOf('\n', start - 1) + 1;
  const stop = text.indexOf('\n', start);
  const line = text.slice(begin, stop === -1 ? undefined : stop);
  const column = start - begin;
  const length = Math.max(1, Math.min(span.end, begin + line.length) - start);
  return {
    line: text.slice(0, begin).split('\n').length,
    column: column + 1,
    text: line,
    mark: ' '.repeat(column) + '^'.repeat(length),
  };
}

/** A relation's name as SQL: quoted only when it must be. */
export function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
