/**
 * Reads what the node sends. Nothing from outside is trusted to have the shape we expect: a list that is
 * missing is empty, a number that is missing is zero, and what cannot be read at all is left out.
 */
import { Exact, isNumber, parse } from './json';
import { text } from './payload';
import type {
  ApiCall,
  ApiProblem,
  ApiSummary,
  AuditEntry,
  BusEvent,
  Change,
  ConnectionDetail,
  ConnectionSummary,
  CopyPlan,
  DatabaseUse,
  DeadGroup,
  DeadLetter,
  Diagnostic,
  Field,
  FlowDetail,
  FlowPlan,
  FlowSummary,
  GatewaySummary,
  InstanceDetail,
  InstanceSummary,
  Live,
  MappedField,
  Mapping,
  OrchestrationSummary,
  Overview,
  PluginDetail,
  PluginLine,
  PluginSummary,
  Rules,
  SnapshotOfTable,
  StreamDetail,
  StreamSummary,
  TableSummary,
  TableThere,
  Token,
  Trial,
  TrialEvent,
  User,
  Version,
} from './types';

type Raw = Record<string, unknown>;

const isObject = (v: unknown): v is Raw =>
  typeof v === 'object' && v !== null && !Array.isArray(v) && !(v instanceof Exact);
export const object = (v: unknown): Raw => (isObject(v) ? v : {});
export const num = (v: unknown): number => {
  const n = v instanceof Exact ? Number(v) : v;
  return typeof n === 'number' && Number.isFinite(n) ? n : 0;
};
export const str = (v: unknown): string => (typeof v === 'string' ? v : isNumber(v) ? String(v) : '');
/** A span or size as the file has it: text, or a number. */
const shown = (v: unknown): string | null => str(v) || null;
export const opt = (v: unknown): string | null => (typeof v === 'string' ? v : null);
export const objects = (v: unknown): Raw[] => (Array.isArray(v) ? v.filter(isObject) : []);
export const strings = (v: unknown): string[] =>
  Array.isArray(v) ? v.filter((s): s is string => typeof s === 'string') : typeof v === 'string' ? [v] : [];
const nums = (v: unknown): number[] => (Array.isArray(v) ? v.map(num) : []);

/** The list in an answer, which may be the answer itself or under its name. */
function list(v: unknown, name: string): Raw[] {
  return objects(Array.isArray(v) ? v : object(v)[name]);
}

function parsed(data: string): Raw | null {
  try {
    const value: unknown = parse(data);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

export const problemIn = (v: unknown): FlowSummary['error'] =>
  isObject(v) && typeof v.message === 'string' ? (v as unknown as FlowSummary['error']) : null;

const problems = (v: unknown): ApiProblem[] => objects(v).flatMap((one) => problemIn(one) ?? []);

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
    error: problemIn(v.error),
    notice: problemIn(v.notice),
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
    lag_bytes: typeof v.lag_bytes === 'number' ? v.lag_bytes : null,
    lag_events: Object.entries((v.lag_events ?? {}) as Raw).map(([part, count]) => ({
      part,
      count: num(count),
    })),
    error: problemIn(v.error),
    alarms: problems(v.alarms),
  };
}

function fields(v: unknown): Field[] {
  return objects(v).map((f) => ({ name: str(f.name), type: str(f.type) }));
}

function diagnostic(v: Raw): Diagnostic {
  return {
    severity: str(v.severity) || 'error',
    file: str(v.file),
    line: num(v.line),
    column: num(v.column),
    code: str(v.code),
    message: str(v.message),
    message_zh: opt(v.message_zh) ?? undefined,
    help: opt(v.help) ?? undefined,
    help_zh: opt(v.help_zh) ?? undefined,
  };
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
    dead: { count: num(object(v.dead).count), expires_soon: object(v.dead).expires_soon === true },
    disk: {
      used_bytes: num(disk.used_bytes),
      free_bytes: num(disk.free_bytes),
      total_bytes: num(disk.total_bytes),
    },
    budget: isObject(v.budget)
      ? { used_bytes: num(v.budget.used_bytes), max_bytes: num(v.budget.max_bytes) }
      : undefined,
    sessions: typeof v.sessions === 'number' ? v.sessions : undefined,
    refused: isObject(v.refused)
      ? {
          time: str(v.refused.time),
          count: num(v.refused.count),
          first: isObject(v.refused.first) ? diagnostic(v.refused.first) : null,
        }
      : null,
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

export interface TailMessage {
  events: BusEvent[];
  matched: number;
  rate: number;
  behind: number;
}

export function readTail(data: string): TailMessage | null {
  const value = parsed(data);
  if (!value || !Array.isArray(value.events)) return null;
  return {
    events: events(value.events),
    matched: num(value.matched),
    rate: num(value.rate),
    behind: num(value.behind),
  };
}

export interface SearchStep extends Omit<TailMessage, 'matched' | 'rate' | 'behind'> {
  next: string;
  end: boolean;
  scanned: number;
  remaining: number;
  unreadable: number;
  /** Length of the events. */
  chars: number;
}

export function readSearch(answer: unknown): SearchStep {
  const v = object(answer);
  const found = events(v.events);
  return {
    events: found,
    next: str(v.next),
    end: v.end !== false,
    scanned: num(v.scanned),
    remaining: num(v.remaining),
    unreadable: num(v.unreadable),
    chars: found.reduce((sum, one) => sum + text(one).length + 200, 0),
  };
}

const events = (v: unknown): BusEvent[] =>
  objects(v).flatMap((one) => {
    const found = eventOf(one);
    return found ? [found] : [];
  });

export function readEvent(data: string): BusEvent | null {
  const value = parsed(data);
  return value ? eventOf(value) : null;
}

export function eventOf(v: Raw): BusEvent | null {
  return typeof v.topic === 'string' ? (v as unknown as BusEvent) : null;
}

export const readTopics = (v: unknown): BusEvent[] => events(list(v, 'topics'));
export const readStreams = (v: unknown): StreamSummary[] => list(v, 'streams').map(stream);
export const readFlows = (v: unknown): FlowSummary[] => list(v, 'flows').map(flow);
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

export const INSTANCE_STATES = [
  'running',
  'failing',
  'undoing',
  'stuck',
  'done',
  'failed',
  'cancelled',
] as const;

export const readOrchestrations = (v: unknown): OrchestrationSummary[] =>
  list(v, 'orchestrations').map((one) => ({
    name: str(one.name),
    description: opt(one.description),
    enabled: one.enabled === true,
    instances: Object.fromEntries(Object.entries(object(one.instances)).map(([k, n]) => [k, num(n)])),
  }));

export const API_COUNTS = ['answered', 'late', 'refused', 'failed'] as const;

const apiCall = (v: unknown): ApiCall | null =>
  isObject(v) ? { time: str(v.time), status: num(v.status), error: problemIn(v.error) ?? null } : null;

export const readApis = (v: unknown): ApiSummary[] =>
  list(v, 'apis').map((one) => ({
    name: str(one.name),
    path: str(one.path),
    description: opt(one.description),
    work: str(one.work),
    orchestration: opt(one.orchestration),
    topic: opt(one.topic),
    reply: opt(one.reply),
    service: opt(one.service),
    wsdl: typeof one.service === 'string' ? `${one.service}?wsdl` : null,
    methods: strings(one.methods),
    role: str(one.role),
    parameters: objects(one.parameters).map((p) => ({
      name: str(p.name),
      type: str(p.type),
      required: p.required === true,
    })),
    within: one.within_s === undefined ? null : num(one.within_s),
    inFlight: num(one.in_flight),
    inFlightMax: num(one.in_flight_max),
    counts: {
      answered: num(one.answered_total),
      late: num(one.late_total),
      refused: num(one.refused_total),
      failed: num(one.failed_total),
    },
    last: apiCall(one.last_call),
    failure: apiCall(one.last_failure),
  }));

const failureOf = (v: unknown): string | null => opt(object(v).message);

const instance = (one: Raw): InstanceSummary => ({
  key: str(one.key),
  status: str(one.status),
  paused: one.paused === true,
  version: num(one.version),
  started: str(one.started),
  changed: str(one.changed),
  at: strings(one.at),
  failure: failureOf(one.failure),
});

export const readInstances = (v: unknown): InstanceSummary[] => list(v, 'instances').map(instance);

export function readInstance(answer: unknown): InstanceDetail {
  const v = object(answer);
  const payload = (p: unknown): string => (p == null ? '' : JSON.stringify(p));
  return {
    ...instance(v),
    values: object(v.values),
    waiting: objects(v.waiting).map((w) => ({
      part: str(w.part),
      for: str(w.for),
      compensation: w.compensation === true,
      title: opt(w.title),
      value: opt(w.value),
      until: opt(w.until),
      failure: failureOf(w.failure),
      form: objects(w.form).map((f) => ({ name: str(f.name), type: str(f.type) })),
    })),
    history: objects(v.history).map((r) => ({
      number: num(r.number),
      time: str(r.time),
      place: str(r.place),
      what: str(r.what),
      by: opt(r.by),
      before: payload(r.before),
      after: payload(r.after),
      failure: failureOf(r.failure),
    })),
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

/** The document of a process. */
export const readProcess = (answer: unknown): string => str(object(answer).xml);

/** A process that was imported: the flow that it is, and the files that changed, or would. */
export function readImported(answer: unknown): { flow: string; paths: string[] } {
  const v = object(answer);
  return { flow: str(v.flow), paths: objects(v.changes).map((change) => str(change.path)) };
}

/** What a field of a `map` step may do to a value, in the order in which it is done. */
const MAPPED = [
  'value',
  'with',
  'part',
  'codes',
  'otherwise',
  'date',
  'plus',
  'minus',
  'years_until',
  'format',
  'type',
  'default',
];

function mapping(v: Raw): Mapping {
  const fields = Object.entries(object(v.fields)).map(([name, made]): MappedField => {
    if (typeof made === 'string') return { name, from: [made], done: [] };
    const field = object(made);
    const shownAs = (value: unknown): string =>
      isObject(value)
        ? Object.entries(value)
            .map(([code, to]) => `${code} → ${str(to)}`)
            .join(', ')
        : typeof value === 'boolean'
          ? String(value)
          : str(value);
    return {
      name,
      from: [
        ...new Set([
          ...strings(field.from),
          ...strings(field.join),
          ...strings(field.split),
          ...strings(field.years_until),
        ]),
      ],
      done: MAPPED.filter((key) => field[key] !== undefined).map((key) => ({
        key,
        value: shownAs(field[key]),
      })),
    };
  });
  return { fields, keep: v.keep === true, drop: strings(v.drop) };
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
    taken: num(c.taken),
    late: num(c.late),
    overwritten: num(c.overwritten),
    conflicts: num(c.conflicts),
  };
  const accounted =
    sum.out + sum.filtered + sum.taken + sum.late + sum.dead + sum.held + sum.overwritten + sum.conflicts;
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
        name: opt(n.name),
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
        error: problemIn(n.error),
      })),
      edges: objects(graph.edges).map((e) => ({
        from: str(e.from),
        to: str(e.to),
        case: opt(e.case),
        rate: num(e.rate),
        backlog:
          typeof e.backlog === 'number' ? e.backlog : waiting(byId.get(str(e.from)), byId.get(str(e.to))),
        watermark: opt(e.watermark),
      })),
    },
    conservation: { ...sum, balanced },
    missed: num(v.missed),
    tasks: objects(v.tasks).map((task) => ({
      stream: str(task.stream),
      partition: num(task.partition),
      lane: str(task.lane),
      position: num(task.position),
      lag: num(task.lag),
      stage: num(task.stage),
      watermark: opt(task.watermark),
      held_back_by: opt(task.held_back_by),
    })),
  };
  if (typeof v.source === 'string') detail.source = v.source;
  // What comes each second has none, and must not hide those that are known.
  if (isObject(v.mappings))
    detail.mappings = Object.fromEntries(
      Object.entries(v.mappings).map(([id, map]) => [id, mapping(object(map))]),
    );
  return detail;
}

export function readPlan(raw: unknown): FlowPlan {
  const v = object(raw);
  return {
    stages: objects(v.stages).map((stage) => ({
      stage: num(stage.stage),
      reads: str(stage.reads),
      partitions: num(stage.partitions),
      steps: objects(stage.steps).map((step) => ({
        step: num(step.step),
        kind: str(step.kind),
        part: opt(step.part),
        table: opt(step.table),
        as_of: step.as_of === true,
        state: opt(step.state),
        state_memory_bytes: isNumber(step.state_memory_bytes) ? num(step.state_memory_bytes) : null,
      })),
      regroup: isObject(stage.regroup)
        ? {
            keys: strings(stage.regroup.keys),
            stream: str(stage.regroup.stream),
            partitions: num(stage.regroup.partitions),
          }
        : null,
      results_to: strings(stage.results_to),
      delivers: stage.delivers === true,
    })),
    outputs: objects(v.outputs).map((output) => ({
      kind: str(output.kind),
      name: str(output.name),
      guarantee: str(output.guarantee),
      why: str(output.why),
      why_zh: str(output.why_zh),
    })),
    state_bytes_max: num(v.state_bytes_max),
    batches_bytes_max: num(v.batches_bytes_max),
  };
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
    const original = eventOf(object(l.event));
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
        state: str(l.state) || (l.redriven === true ? 'redriven' : 'open'),
        closed_by: opt(l.closed_by),
        closed_at: opt(l.closed_at),
        also_in: strings(l.also_in),
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
    changes: changes(v.changes),
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

function plugin(v: Raw): PluginSummary {
  const workers = objects(v.workers);
  const sum = (name: string) => workers.reduce((all, worker) => all + num(worker[name]), 0);
  const message = opt(v.error);
  return {
    name: str(v.name),
    language: str(v.language),
    description: opt(v.description),
    flows: strings(v.flows),
    state: str(v.state),
    error: message
      ? { class: 'configuration', code: '', message, message_zh: opt(v.error_zh) ?? undefined }
      : null,
    given: num(v.given),
    made: num(v.made),
    failed: num(v.failed),
    memory: sum('memory'),
    workers: workers.length,
    deaths: sum('deaths'),
    rate: 0,
  };
}

export const readPlugins = (v: unknown): PluginSummary[] => list(v, 'plugins').map(plugin);

export function readPlugin(v: unknown): PluginDetail {
  return { ...plugin(object(v)), files: texts(object(v).files) };
}

/** Members that are texts. */
function texts(v: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(object(v)).map(([name, value]) => [name, str(value)]));
}

/** Events a second of each plug-in, from what it was given by one answer and the next. */
export class PluginRates {
  #before = new Map<string, { given: number; at: number; rate: number }>();

  /** `at` in milliseconds of any clock that does not go back. */
  of<T extends PluginSummary>(all: T[], at: number): T[] {
    return all.map((one) => {
      const before = this.#before.get(one.name);
      const seconds = before ? (at - before.at) / 1000 : 0;
      // A new version counts from nothing.
      const more = before && one.given >= before.given ? one.given - before.given : one.given;
      const rate = before ? (seconds > 0 ? more / seconds : before.rate) : 0;
      this.#before.set(one.name, { given: one.given, at, rate });
      return { ...one, rate };
    });
  }
}

export const readPluginLog = (v: unknown): PluginLine[] =>
  list(v, 'lines').map((line) => ({
    number: num(line.number),
    time: str(line.time),
    level: str(line.level),
    worker: num(line.worker),
    text: str(line.text),
  }));

export function readPluginDiff(v: unknown): Record<string, FlowDiff> {
  const files = Object.entries(object(object(v).files));
  return Object.fromEntries(files.map(([path, difference]) => [path, readDiff(difference)]));
}

function trialEvent(v: unknown): TrialEvent {
  const event = object(v);
  return {
    topic: str(event.topic),
    key: opt(event.key),
    tags: texts(event.tags),
    payload: event.payload,
    payload_base64: opt(event.payload_base64) ?? undefined,
  };
}

export function readTrial(answer: unknown): Trial {
  const v = object(answer);
  return {
    events: objects(v.events).map((event) => ({
      given: trialEvent(event.given),
      made: objects(event.made).map(trialEvent),
      error: problemIn(event.error) ?? null,
    })),
    log: readPluginLog({ lines: v.log }),
    took_ms: num(v.took_ms),
  };
}

export interface FlowDiff {
  before: string;
  after: string;
}

export function readDiff(v: unknown): FlowDiff {
  return { before: str(object(v).before), after: str(object(v).after) };
}

export interface ProjectFiles {
  files: Record<string, string>;
  refused: { time: string; diagnostics: Diagnostic[] } | null;
  /** About the version that runs: flow tests that fail, say. */
  warnings: Diagnostic[];
  /** Files in which what runs differs from the project's folder. */
  differs: Change[];
}

export function readProject(answer: unknown): ProjectFiles {
  const v = object(answer);
  const texts = Object.entries(object(v.files));
  return {
    files: Object.fromEntries(texts.filter((e): e is [string, string] => typeof e[1] === 'string')),
    refused: isObject(v.refused)
      ? { time: str(v.refused.time), diagnostics: objects(v.refused.diagnostics).map(diagnostic) }
      : null,
    warnings: objects(v.warnings).map(diagnostic),
    differs: changes(v.differs),
  };
}

function changes(v: unknown): Change[] {
  return objects(v).map((c) => ({
    path: str(c.path),
    kind: str(c.kind) as Change['kind'],
    meaning: typeof c.meaning === 'boolean' ? c.meaning : undefined,
  }));
}

function rules(v: unknown): Rules {
  const from = object(v);
  const list = (name: string) => (Array.isArray(from[name]) ? strings(from[name]) : undefined);
  return { publish: list('publish'), subscribe: list('subscribe'), read: list('read') };
}

export const readUsers = (v: unknown): User[] =>
  list(v, 'users').map((u) => ({
    name: str(u.name),
    role: str(u.role),
    rules: rules(u.rules),
    created: str(u.created),
  }));

export const readTokens = (v: unknown): Token[] =>
  list(v, 'tokens').map((one) => ({
    id: str(one.id),
    name: str(one.name),
    user: str(one.user),
    role: str(one.role),
    rules: rules(one.rules),
    created: str(one.created),
    expires: opt(one.expires),
  }));

export function readAudit(v: unknown): { entries: AuditEntry[]; next: string | null } {
  const entries = list(v, 'entries').map((one) => ({
    id: str(one.id),
    time: str(one.time),
    user: str(one.user),
    via: str(one.via),
    origin: str(one.origin),
    peer: opt(one.peer),
    action: str(one.action),
    target: str(one.target),
    message: str(one.message),
    message_zh: opt(one.message_zh) ?? undefined,
  }));
  return { entries, next: opt(object(v).next) };
}
