/** The search condition on a value at a path of the payload: `PATH=VALUE`. */
import type { ApiProblem } from './types';

/** Bytes of the condition. */
export const SEARCH_FIELD_BYTES_MAX = 1024;

/** Why a condition is refused before it is sent; null for one that may be sent, or is empty. */
export function fieldFault(text: string): 'shape' | 'long' | null {
  if (text === '') return null;
  if (new TextEncoder().encode(text).length > SEARCH_FIELD_BYTES_MAX) return 'long';
  // Paths of FHIR have `=` within brackets or parentheses.
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (letter === '(' || letter === '[') depth++;
    else if (letter === ')' || letter === ']') depth = Math.max(0, depth - 1);
    else if (letter === '=' && depth === 0) return text.slice(0, at).trim() === '' ? 'shape' : null;
  }
  return 'shape';
}

/** Whether a span of time, as times in UTC, has nothing in it because it does not end after its start. */
export function isBackwards(since: string | undefined, until: string | undefined): boolean {
  return since !== undefined && until !== undefined && Date.parse(until) <= Date.parse(since);
}

/** Whether the node refused a search for its condition on a value. */
export function refusesField(problem: ApiProblem): boolean {
  return (
    problem.code === 'server.bad-search-field' ||
    problem.code === 'server.search-path' ||
    (problem.code === 'server.condition-too-long' && problem.args?.name === 'field')
  );
}
