/** Tables of other systems, and what copying them takes. */
import { isNumber } from '../json';
import type { CopyPlan, TableThere } from '../types';
import { diagnostic, list, num, object, objects, problemIn, problems, str, strings } from './raw';

export const readTablesThere = (v: unknown): TableThere[] =>
  list(v, 'tables').map((one) => ({
    schema: str(one.schema),
    name: str(one.name),
    rows: isNumber(one.rows) ? num(one.rows) : null,
    columns: objects(one.columns).map((c) => ({ name: str(c.name), type: str(c.type), key: c.key === true })),
  }));

export function readCopyPlan(answer: unknown): CopyPlan {
  const v = object(answer);
  const texts = Object.entries(object(v.files));
  return {
    name: str(v.name),
    from: str(v.from),
    to: str(v.to),
    exists: v.exists === true,
    files: Object.fromEntries(texts.filter((e): e is [string, string] => typeof e[1] === 'string')),
    flows: strings(v.flows),
    columns: objects(v.columns).map((c) => ({
      table: str(c.table),
      name: str(c.name),
      from: str(c.from),
      to: str(c.to),
      key: c.key === true,
    })),
    refusals: problems(v.refusals),
    warnings: problems(v.warnings),
    statements: objects(v.statements).flatMap((s) => {
      const why = problemIn(s.why);
      return why ? [{ connection: str(s.connection), statement: str(s.statement), why }] : [];
    }),
    diagnostics: objects(v.diagnostics).map(diagnostic),
  };
}
