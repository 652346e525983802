/** Tables. */
import { isNumber } from '../json';
import type { TableSummary } from '../types';
import { fields, isObject, list, num, object, problemIn, type Raw, shown, str, strings } from './raw';

function table(v: Raw): TableSummary {
  return {
    name: str(v.name),
    kind: str(v.kind),
    rows: isNumber(v.rows) ? num(v.rows) : null,
    error: problemIn(v.error),
    key: strings(v.key),
    columns: fields(v.columns),
    ttl: shown(object(object(v.spec).hot).ttl),
    tier: str(v.kind) + (shown(object(object(v.spec)[str(v.kind)]).connection) ? '_elsewhere' : ''),
    families: families(object(object(v.spec).wide)),
    hot: isObject(v.hot) ? hotRows(v.hot) : null,
  };
}

const hotRows = (v: Raw): TableSummary['hot'] => ({
  place: shown(v.place),
  bytes: isNumber(v.bytes) ? num(v.bytes) : null,
  expired: isNumber(v.expired) ? num(v.expired) : null,
  evicted: isNumber(v.evicted) ? num(v.evicted) : null,
  moves: isObject(v.moves)
    ? {
        to: str(v.moves.to),
        moved: num(v.moves.moved),
        rejected: num(v.moves.rejected),
        lag_s: num(v.moves.lag_s),
        error: problemIn(v.moves.error),
      }
    : null,
});

/** `m (3 versions, 30d)` of each family of a wide table. */
function families(wide: Raw): string[] {
  return list(wide, 'families').map((family) => {
    const facts = [family.versions === undefined ? '' : `×${num(family.versions)}`, shown(family.ttl) ?? ''];
    const more = facts.filter((fact) => fact !== '').join(', ');
    return more === '' ? str(family.name) : `${str(family.name)} (${more})`;
  });
}

export const readTables = (v: unknown): TableSummary[] => list(v, 'tables').map(table);
export const readTable = (v: unknown): TableSummary => table(object(v));
