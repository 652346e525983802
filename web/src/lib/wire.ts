/**
 * Reads what the node sends. Nothing from outside is trusted to have the shape we expect: a list that is
 * missing is empty, a number that is missing is zero, and what cannot be read at all is left out.
 */
import type {
  BusEvent,
  Change,
  ConnectionSummary,
  DeadGroup,
  DeadLetter,
  Field,
  FlowDetail,
  FlowSummary,
  Live,
  Overview,
  StreamDetail,
  StreamSummary,
  TableSummary,
  Version,
} from './types';

type Raw = Record<string, unknown>;

const isObject = (v: unknown): v is Raw => typeof v === 'object' && v !== null && !Array.isArray(v);
const object = (v: unknown): Raw => (isObject(v) ? v : {});
const num = (v: unknown): number => (typeof v === 'number' && Number.isFinite(v) ? v : 0);
const str = (v: unknown): string => (typeof v === 'string' ? v : typeof v === 'number' ? String(v) : '');
/** A span or size as the file has it: text, or a number. */
const shown = (v: unknown): string | null => str(v) || null;
const opt = (v: unknown): string | null => (typeof v === 'string' ? v : null);
const objects = (v: unknown): Raw[] => (Array.isArray(v) ? v.filter(isObject) : []);
const strings = (v: unknown): string[] =>
  Array.isArray(v) ? v.filter((s): s is string => typeof s === 'string') : typeof v === 'string' ? [v] : [];
const nums = (v: unknown): number[] => (Array.isArray(v) ? v.map(num) : []);

/** The list in an answer, which may be the answer itself or under its name. */
function list(v: unknown, name: string): Raw[] {
  return objects(Array.isArray(v) ? v : object(v)[name]);
}

function parsed(data: string): Raw | null {
  try {
    const value: unknown = JSON.parse(data);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

const problem = (v: unknown): FlowSummary['error'] =>
  isObject(v) && typeof v.message === 'string' ? (v as unknown as FlowSummary['error']) : null;

function stream(v: Raw): StreamSummary {
  return {
    name: str(v.name),
    topics: strings(v.topics),
    partitions: num(v.partitions),
    events: num(v.events),
    bytes: num(v.bytes),
    rate: num(v.rate),
    durability: str(v.durability) as StreamSummary['durability'],
    damaged: num(v.damaged),
    internal: v.internal === true,
    detached: v.detached === true,
  };
}

function flow(v: Raw): FlowSummary {
  return {
    name: str(v.name),
    state: str(v.state) as FlowSummary['state'],
    from: str(v.from),
    version: typeof v.version === 'number' ? v.version : undefined,
    in: num(v.in),
    out: num(v.out),
    filtered: num(v.filtered),
    dead: num(v.dead),
    held: num(v.held),
    rate: num(v.rate),
    lag: num(v.lag),
    watermark: opt(v.watermark),
    error: problem(v.error),
  };
}

function connection(v: Raw): ConnectionSummary {
  return {
    name: str(v.name),
    kind: str(v.kind),
    direction: str(v.direction),
    state: str(v.state),
    in: num(v.in),
    out: num(v.out),
    rate: num(v.rate),
    guarantee: opt(v.guarantee),
    error: problem(v.error),
  };
}

function fields(v: unknown): Field[] {
  return objects(v).map((f) => ({ name: str(f.name), type: str(f.type) }));
}

function overview(v: Raw): Overview {
  const history = object(v.history);
  const disk = object(v.disk);
  return {
    version: str(v.version),
    time: str(v.time),
    uptime_s: num(v.uptime_s),
    memory_bytes: num(v.memory_bytes),
    cores: num(v.cores),
    cpu: num(v.cpu),
    durability: str(v.durability) as Overview['durability'],
    events_in_per_s: num(v.events_in_per_s),
    events_out_per_s: num(v.events_out_per_s),
    history: { step_s: num(history.step_s) || 1, in: nums(history.in), out: nums(history.out) },
    streams: objects(v.streams).map(stream),
    flows: objects(v.flows).map(flow),
    connections: objects(v.connections).map(connection),
    dead: { count: num(object(v.dead).count) },
    disk: {
      used_bytes: num(disk.used_bytes),
      free_bytes: num(disk.free_bytes),
      total_bytes: num(disk.total_bytes),
    },
    budget: isObject(v.budget)
      ? { used_bytes: num(v.budget.used_bytes), max_bytes: num(v.budget.max_bytes) }
      : undefined,
    sessions: typeof v.sessions === 'number' ? v.sessions : undefined,
  };
}

export function readLive(data: string): Live | null {
  const value = parsed(data);
  if (!value || !isObject(value.overview)) return null;
  return { overview: overview(value.overview), flows: objects(value.flows).map((f) => readFlow(f)) };
}

/** The last minute of each stream and flow, by name. */
export interface Rates {
  streams: Map<string, number[]>;
  flows: Map<string, number[]>;
}

export function readRates(v: unknown): Rates {
  const lines = (of: unknown) =>
    new Map(Object.entries(object(of)).map(([name, values]) => [name, nums(values)]));
  return { streams: lines(object(v).streams), flows: lines(object(v).flows) };
}

export function readEvent(data: string): BusEvent | null {
  const value = parsed(data);
  return value ? event(value) : null;
}

function event(v: Raw): BusEvent | null {
  return typeof v.topic === 'string' ? (v as unknown as BusEvent) : null;
}

export const readTopics = (v: unknown): BusEvent[] =>
  list(v, 'topics').flatMap((one) => {
    const found = event(one);
    return found ? [found] : [];
  });
export const readStreams = (v: unknown): StreamSummary[] => list(v, 'streams').map(stream);
export const readFlows = (v: unknown): FlowSummary[] => list(v, 'flows').map(flow);
export const readConnections = (v: unknown): ConnectionSummary[] => list(v, 'connections').map(connection);

export function readStream(answer: unknown): StreamDetail {
  const v = object(answer);
  const spec = object(v.spec);
  const retention = object(spec.retention);
  return {
    name: str(v.name),
    topics: strings(v.topics),
    format: opt(spec.format) ?? Object.keys(object(spec.format))[0] ?? null,
    retention: { age: shown(retention.age), bytes: shown(retention.bytes) },
    detached: v.detached === true,
    durability: str(v.durability) as StreamDetail['durability'],
    rate: num(v.rate),
    events: num(v.events),
    bytes: num(v.bytes),
    partitions: objects(v.partition_list).map((p) => ({
      index: num(p.index),
      start: num(p.start),
      end: num(p.end),
      bytes: num(p.bytes),
    })),
    schema: fields(v.schema),
    damage: objects(v.damage).map((d) => ({
      file: str(d.file),
      offset: num(d.offset),
      bytes: num(d.bytes),
      why: str(d.why),
    })),
  };
}

export function readFlow(answer: unknown): FlowDetail {
  const v = object(answer);
  const graph = object(v.graph);
  const c = isObject(v.conservation) ? v.conservation : v;
  const sum = {
    in: num(c.in),
    added: num(c.added),
    out: num(c.out),
    filtered: num(c.filtered),
    dead: num(c.dead),
    held: num(c.held),
  };
  const accounted = sum.out + sum.filtered + sum.dead + sum.held;
  const balanced = typeof c.balanced === 'boolean' ? c.balanced : sum.in + sum.added === accounted;
  const nodes = objects(graph.nodes);
  const byId = new Map(nodes.map((n) => [str(n.id), n]));
  const detail: FlowDetail = {
    ...flow(v),
    graph: {
      nodes: nodes.map((n) => ({
        id: str(n.id),
        kind: str(n.kind),
        label: str(n.label),
        in: num(n.in),
        out: num(n.out),
        filtered: num(n.filtered),
        dead: num(n.dead),
        held: num(n.held),
        // A source is as fast as what leaves it.
        rate: n.role === 'from' ? Math.max(num(n.rate), num(n.rate_out)) : num(n.rate),
        lag: num(n.lag),
        watermark: opt(n.watermark),
        guarantee: opt(n.guarantee),
        error: problem(n.error),
      })),
      edges: objects(graph.edges).map((e) => ({
        from: str(e.from),
        to: str(e.to),
        rate: num(e.rate),
        backlog:
          typeof e.backlog === 'number' ? e.backlog : waiting(byId.get(str(e.from)), byId.get(str(e.to))),
        watermark: opt(e.watermark),
      })),
    },
    conservation: { ...sum, balanced },
    missed: num(v.missed),
  };
  if (typeof v.source === 'string') detail.source = v.source;
  return detail;
}

/** What waits between two steps: before an output with a cursor of its own, or in the stream that is read. */
function waiting(from: Raw | undefined, to: Raw | undefined): number {
  if (to?.role === 'to' && num(to.lag) > 0) return num(to.lag);
  return from?.role === 'from' ? num(from.lag) : 0;
}

function table(v: Raw): TableSummary {
  return {
    name: str(v.name),
    kind: str(v.kind),
    rows: num(v.rows),
    key: strings(v.key),
    columns: fields(v.columns),
    ttl: shown(object(object(v.spec).hot).ttl),
  };
}

export const readTables = (v: unknown): TableSummary[] => list(v, 'tables').map(table);
export const readTable = (v: unknown): TableSummary => table(object(v));

function group(v: Raw): DeadGroup {
  return {
    flow: str(v.flow),
    step: str(v.step),
    code: str(v.code),
    cause: str(v.cause),
    cause_zh: opt(v.cause_zh) ?? undefined,
    count: num(v.count),
    first: str(v.first),
    last: str(v.last),
  };
}

export const readGroups = (v: unknown): DeadGroup[] =>
  list(v, 'groups')
    .map(group)
    .sort((a, b) => b.count - a.count);

export function readLetters(v: unknown): DeadLetter[] {
  return list(v, 'letters').flatMap((l) => {
    const original = event(object(l.event));
    if (!original) return [];
    return [
      {
        id: str(l.id),
        flow: str(l.flow),
        step: str(l.step),
        code: str(l.code),
        cause: str(l.cause),
        cause_zh: opt(l.cause_zh) ?? undefined,
        time: str(l.time),
        stream: str(l.stream),
        partition: num(l.partition),
        offset: num(l.offset),
        event: original,
      },
    ];
  });
}

function version(v: Raw): Version {
  return {
    version: num(v.version),
    time: str(v.time),
    by: opt(v.by),
    note: opt(v.note),
    changes: objects(v.changes).map((c) => ({
      path: str(c.path),
      kind: str(c.kind) as Change['kind'],
      meaning: typeof c.meaning === 'boolean' ? c.meaning : undefined,
    })),
  };
}

/** A flow reads one stream or several, which are told as one text. */
export const sources = (from: string): string[] =>
  from
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');

/** Newest first, whatever order they came in. */
const newest = (all: Version[]): Version[] => all.sort((a, b) => b.version - a.version);
export const readVersions = (v: unknown): Version[] => newest(list(v, 'versions').map(version));
export const readHistory = (v: unknown): Version[] => newest(list(v, 'versions').map(version));

export interface FlowDiff {
  before: string;
  after: string;
}

export function readDiff(v: unknown): FlowDiff {
  return { before: str(object(v).before), after: str(object(v).after) };
}

export function readFiles(v: unknown): Record<string, string> {
  const files = object(object(v).files);
  return Object.fromEntries(
    Object.entries(files).filter((e): e is [string, string] => typeof e[1] === 'string'),
  );
}
