/** Connections and gateways. */
import { isNumber } from '../json';
import type {
  ConnectionDetail,
  ConnectionSummary,
  DatabaseUse,
  GatewaySummary,
  SnapshotOfTable,
} from '../types';
import { list, num, object, objects, opt, problemIn, problems, type Raw, str, strings } from './raw';

export function connection(v: Raw): ConnectionSummary {
  return {
    name: str(v.name),
    kind: str(v.kind),
    direction: str(v.direction),
    state: str(v.state),
    in: num(v.in),
    out: num(v.out),
    rate: num(v.rate),
    guarantee: opt(v.guarantee),
    lag_bytes: typeof v.lag_bytes === 'number' ? v.lag_bytes : null,
    lag_events: Object.entries((v.lag_events ?? {}) as Raw).map(([part, count]) => ({
      part,
      count: num(count),
    })),
    error: problemIn(v.error),
    alarms: problems(v.alarms),
  };
}

export const readConnections = (v: unknown): ConnectionSummary[] => list(v, 'connections').map(connection);

/** One of the connections; null where there is none of this name. */
export function readConnection(v: unknown, name: string): ConnectionDetail | null {
  const found = list(v, 'connections').find((one) => one.name === name);
  return found
    ? {
        ...connection(found),
        flows: strings(found.flows),
        database: databaseUse(found.database),
        snapshots: objects(found.snapshots).map(snapshotOfTable),
      }
    : null;
}

function snapshotOfTable(v: Raw): SnapshotOfTable {
  return {
    table: str(v.table),
    state: str(v.state),
    rows: num(v.rows),
    expected: isNumber(v.expected) ? num(v.expected) : null,
    counted: isNumber(v.counted) ? num(v.counted) : null,
  };
}

function databaseUse(v: unknown): DatabaseUse | null {
  if (v === null || v === undefined) return null;
  const d = object(v);
  return {
    sessions: num(d.sessions),
    used: num(d.used),
    idle: num(d.idle),
    statements: num(d.statements),
    failures: num(d.failures),
    keys: num(d.keys),
    found: num(d.found),
    cached: num(d.cached),
  };
}

export const readGateways = (v: unknown): GatewaySummary[] =>
  list(v, 'gateways').map((g) => ({
    name: str(g.name),
    addresses: strings(g.addresses),
    connections: num(g.connections),
    connections_total: num(g.connections_total),
    events_in_total: num(g.events_in_total),
    events_out_total: num(g.events_out_total),
    events_refused_total: num(g.events_refused_total),
    refusals_total: num(g.refusals_total),
    logins_refused_total: num(g.logins_refused_total),
  }));
