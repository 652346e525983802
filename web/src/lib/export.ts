/** All rows of a query as CSV, read from the node in lines. */
import { ApiError, url } from './api';
import { csvHead, csvRow } from './cells';
import { t } from './i18n.svelte';
import { parse } from './json';
import type { ApiProblem, Field } from './types';

/** Rows whose text is put together before it is handed to the browser. */
const PART_ROWS = 5000;

export interface Exported {
  blob: Blob;
  rows: number;
}

/** Throws when the node refuses, when the query fails on the way, and when the answer is incomplete. */
export async function exportCsv(
  sql: string,
  signal: AbortSignal,
  progress: (rows: number) => void,
): Promise<Exported> {
  const response = await fetch(url('/sql'), {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/x-ndjson' },
    body: JSON.stringify({ sql }),
    credentials: 'same-origin',
    signal,
  });
  if (!response.ok || !response.body) {
    const body = parse(await response.text()) as { error?: ApiProblem } | undefined;
    throw new ApiError(response.status, body?.error ?? incomplete());
  }
  const parts: string[] = [];
  let part: string[] = [];
  let rows = 0;
  let ended = false;
  const take = (line: string): void => {
    if (line === '') return;
    const value = parse(line);
    if (Array.isArray(value)) {
      part.push(csvRow(value));
      rows += 1;
      if (part.length >= PART_ROWS) {
        parts.push(part.join(''));
        part = [];
        progress(rows);
      }
      return;
    }
    const other = value as { columns?: Field[]; error?: ApiProblem; end?: unknown };
    if (other.error) throw new ApiError(500, other.error);
    if (other.columns) parts.push(csvHead(other.columns));
    if (other.end) ended = true;
  };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split('\n');
    rest = lines.pop() ?? '';
    lines.forEach(take);
  }
  take(rest);
  if (!ended) throw new ApiError(0, incomplete());
  parts.push(part.join(''));
  return { blob: new Blob(parts, { type: 'text/csv' }), rows };
}

function incomplete(): ApiProblem {
  return { class: 'transient', code: 'console.incomplete', message: t('sql.incomplete') };
}
