/**
 * What the pages work with: parts of the API's own types (`api.gen.ts`) as the files of `wire/` read them. A field that the
 * API renames or drops fails the type check here.
 *
 * Times are RFC 3339 with `Z` and microseconds, spans are seconds, sizes are bytes, rates are events a second.
 */
import type * as Api from './api.gen';

/** Fields of a type, of which none is absent. */
type Fields<T, K extends keyof T> = { [P in K]-?: Exclude<T[P], undefined> };

export type Durability = 'memory' | 'fsync' | 'replicated';

export type Overview = Fields<
  Api.Overview,
  | 'version'
  | 'time'
  | 'uptime_s'
  | 'memory_bytes'
  | 'cores'
  | 'cpu'
  | 'events_in_per_s'
  | 'events_out_per_s'
  | 'history'
  | 'dead'
  | 'disk'
> & {
  durability: Durability;
  streams: StreamSummary[];
  flows: FlowSummary[];
  connections: ConnectionSummary[];
  budget?: Api.Budget;
  sessions?: number;
  /** Files that were saved last and have errors; the version before them keeps running. */
  refused: RefusedSave | null;
};

export type RefusedSave = Fields<Api.RefusedSave, 'time' | 'count'> & { first: Diagnostic | null };

/** An error or warning in a file of the project. */
export interface Diagnostic {
  severity: string;
  file: string;
  line: number;
  column: number;
  code: string;
  message: string;
  message_zh?: string;
  help?: string;
  help_zh?: string;
}

export type StreamSummary = Fields<
  Api.StreamSummary,
  'name' | 'topics' | 'partitions' | 'events' | 'bytes' | 'rate' | 'damaged' | 'internal' | 'detached'
> & { durability: Durability };

export type Field = Fields<Api.Field, 'name' | 'type'>;
export type Damage = Fields<Api.DamageView, 'file' | 'offset' | 'bytes' | 'why'>;

export type StreamDetail = Fields<
  Api.StreamDetail,
  'name' | 'topics' | 'detached' | 'rate' | 'events' | 'bytes'
> & {
  durability: Durability;
  format: string | null;
  /** What is older, or more, is removed, as the file says it; null keeps everything. */
  retention: { age: string | null; bytes: string | null };
  partitions: Fields<Api.PartitionView, 'index' | 'start' | 'end' | 'bytes'>[];
  schema: Field[];
  damage: Damage[];
};

/** An event of a stream, or the last value of a topic. */
export type BusEvent = Pick<Api.EventView, 'topic' | 'time' | 'key' | 'client' | 'payload'> &
  Partial<Pick<Api.EventView, 'stream' | 'partition' | 'offset'>> & {
    tags?: Record<string, string>;
    payload_base64?: string;
  };

export type FlowSummary = Fields<
  Api.FlowSummary,
  'name' | 'state' | 'from' | 'in' | 'out' | 'filtered' | 'dead' | 'held' | 'rate' | 'lag'
> &
  Partial<Pick<Api.FlowSummary, 'version' | 'watermark'>> & {
    error?: ApiProblem | null;
    notice?: ApiProblem | null;
  };

export type FlowNode = Fields<
  Api.NodeView,
  'id' | 'kind' | 'label' | 'in' | 'out' | 'filtered' | 'dead' | 'held' | 'rate' | 'lag'
> &
  Pick<Api.NodeView, 'watermark' | 'guarantee'> & {
    /** Its name as an endpoint or mediation, where the flow gives one. */
    name?: string | null;
    error?: ApiProblem | null;
  };

export type FlowEdge = Pick<Api.EdgeView, 'from' | 'to' | 'case' | 'watermark'> & {
  rate?: number;
  backlog?: number;
};

export type Conservation = Fields<
  Api.ConservationView,
  | 'in'
  | 'added'
  | 'out'
  | 'filtered'
  | 'taken'
  | 'late'
  | 'dead'
  | 'held'
  | 'overwritten'
  | 'conflicts'
  | 'balanced'
>;

/** A cursor of a flow on one partition. */
export type FlowTask = Fields<Api.TaskView, 'stream' | 'partition' | 'lane' | 'position' | 'lag' | 'stage'> &
  Pick<Api.TaskView, 'watermark' | 'held_back_by'>;

/** How a flow runs. */
export interface FlowPlan {
  stages: FlowStage[];
  outputs: FlowPromise[];
  state_bytes_max: number;
  batches_bytes_max: number;
}

/** What reads one stream. */
export interface FlowStage {
  stage: number;
  reads: string;
  partitions: number;
  steps: FlowStep[];
  /** How rows come to the next stage; null where they go to outputs. */
  regroup: { keys: string[]; stream: string; partitions: number } | null;
  /** Streams that keep its results, computed once, for outputs with cursors of their own. */
  results_to: string[];
  delivers: boolean;
}

/** A step, or the part of one on one side of a regrouping. */
export interface FlowStep {
  step: number;
  kind: string;
  part: string | null;
  table: string | null;
  /** A look-up as of the row's time. */
  as_of: boolean;
  state: string | null;
  state_memory_bytes: number | null;
}

/** What an output promises across a crash, and why. */
export interface FlowPromise {
  kind: string;
  name: string;
  guarantee: string;
  why: string;
  why_zh: string;
}

export type FlowDetail = FlowSummary &
  Fields<Api.FlowDetail, 'missed'> & {
    tasks: FlowTask[];
    graph: { nodes: FlowNode[]; edges: FlowEdge[] };
    conservation: Conservation;
    source?: string;
    /** Its steps `map`, by their ids in the graph; only where the flow was asked for by its name. */
    mappings?: Record<string, Mapping>;
  };

/** A step `map`. */
export interface Mapping {
  fields: MappedField[];
  /** Whether other columns pass, but for those in `drop`. */
  keep: boolean;
  drop: string[];
}

export interface MappedField {
  name: string;
  /** The columns that it is made of; none of a constant. */
  from: string[];
  /** What is done to them, in order: the key in the file, and its value as text. */
  done: { key: string; value: string }[];
}

export type Version = Fields<Api.VersionView, 'version' | 'time'> & {
  by?: string | null;
  note?: string | null;
  changes: Change[];
};

export type Change = Fields<Api.ChangeView, 'path'> & {
  kind: 'added' | 'changed' | 'removed';
  meaning?: boolean;
};

export type TableSummary = Fields<Api.TableView, 'name' | 'kind' | 'key'> & {
  /** Null where they cannot be counted; `error` says why. */
  rows: number | null;
  error: FlowSummary['error'];
  columns: Field[];
  /** Its kind, and whether its rows are in another system: `hot_elsewhere`. */
  tier: string;
  /** As the file says it: `10m`. */
  ttl?: string | null;
  /** Of a wide table: what each family keeps. */
  families?: string[];
  /** What became of the rows of a hot table. */
  hot?:
    | (Fields<Api.HotRows, 'place' | 'bytes' | 'expired' | 'evicted'> & {
        moves:
          | (Fields<Api.RowMoves, 'to' | 'moved' | 'rejected' | 'lag_s'> & { error?: ApiProblem | null })
          | null;
      })
    | null;
};

export type ConnectionSummary = Fields<
  Api.ConnectionView,
  'name' | 'kind' | 'direction' | 'state' | 'in' | 'out' | 'rate'
> &
  Pick<Api.ConnectionView, 'guarantee'> & {
    lag_bytes?: number | null;
    /** Of each part, where the other side counts events. */
    lag_events?: { part: string; count: number }[];
    error?: ApiProblem | null;
    /** What somebody should look at although it runs. */
    alarms: ApiProblem[];
  };

export type OrchestrationSummary = Fields<Api.OrchestrationView, 'name' | 'enabled'> & {
  description: string | null;
  /** By state. */
  instances: Record<string, number>;
};

/** An API that the project publishes. */
export type ApiSummary = Fields<Api.ApiView, 'name' | 'path' | 'work' | 'methods' | 'role'> & {
  description: string | null;
  orchestration: string | null;
  topic: string | null;
  reply: string | null;
  /** Where it is called as a web service, and where that is described; null where it is none. */
  service: string | null;
  wsdl: string | null;
  parameters: Fields<Api.ApiParameter, 'name' | 'type' | 'required'>[];
  /** How long a caller waits, in seconds. */
  within: number | null;
  inFlight: number;
  inFlightMax: number;
  counts: Record<'answered' | 'late' | 'refused' | 'failed', number>;
  last: ApiCall | null;
  failure: ApiCall | null;
};

/** A call of such an API that has ended. */
export type ApiCall = Fields<Api.LastCall, 'time' | 'status'> & { error: ApiProblem | null };

export type InstanceSummary = Fields<
  Api.InstanceView,
  'key' | 'status' | 'paused' | 'version' | 'started' | 'changed' | 'at'
> & { failure: Told | null };

/** What an instance waits for. */
export interface InstanceWait {
  part: string;
  /** `call`, `time`, `event`, `person` or `decision`. */
  for: string;
  compensation: boolean;
  title: string | null;
  value: string | null;
  until: string | null;
  failure: Told | null;
  form: Field[];
}

/** One thing that has happened to an instance. */
export interface HistoryEntry {
  number: number;
  time: string;
  place: string;
  what: string;
  by: string | null;
  before: string;
  after: string;
  failure: Told | null;
}

export type InstanceDetail = InstanceSummary & {
  values: Record<string, unknown>;
  waiting: InstanceWait[];
  history: HistoryEntry[];
};

/** A connection with the flows that write to it or ask it. */
export type ConnectionDetail = ConnectionSummary & {
  flows: string[];
  database: DatabaseUse | null;
  snapshots: SnapshotOfTable[];
};

/** How far a source has read what was in a table before its changes came. */
export type SnapshotOfTable = Fields<Api.SnapshotView, 'table' | 'state' | 'rows'> & {
  /** Null where that is not known. */
  expected: number | null;
  counted: number | null;
};

/** What is asked of a database, since the node began. */
export type DatabaseUse = Fields<
  Api.AskedView,
  'sessions' | 'used' | 'idle' | 'statements' | 'failures' | 'keys' | 'found' | 'cached'
>;

/** A table on the other side of a connection. */
export interface TableThere {
  schema: string;
  name: string;
  /** An estimate; null where the other side has none. */
  rows: number | null;
  columns: { name: string; type: string; key: boolean }[];
}

/** The copy of a table to another database, as it would be made. */
export interface CopyPlan {
  name: string;
  from: string;
  to: string;
  /** Whether the second table is there. */
  exists: boolean;
  /** Texts by path; none where something is refused. */
  files: Record<string, string>;
  /** The flows that copy, one for each table and direction. */
  flows: string[];
  columns: { table: string; name: string; from: string; to: string; key: boolean }[];
  refusals: ApiProblem[];
  warnings: ApiProblem[];
  statements: { connection: string; statement: string; why: ApiProblem }[];
  diagnostics: Diagnostic[];
}

export type GatewaySummary = Fields<
  Api.GatewayView,
  | 'name'
  | 'addresses'
  | 'connections'
  | 'connections_total'
  | 'events_in_total'
  | 'events_out_total'
  | 'events_refused_total'
  | 'refusals_total'
  | 'logins_refused_total'
>;

/** Numbers that JavaScript cannot hold are an `Exact`. */
export type SqlResult = Fields<Api.Rows, 'columns' | 'rows' | 'truncated' | 'elapsed_ms'> &
  Partial<Pick<Api.Rows, 'undecodable' | 'unreadable'>> & { partial?: number };

export type DeadGroup = Fields<
  Api.GroupView,
  'flow' | 'step' | 'code' | 'cause' | 'varies' | 'count' | 'first' | 'last'
> & {
  cause_zh?: string;
};

export type DeadLetter = Fields<
  Api.LetterView,
  'id' | 'flow' | 'step' | 'code' | 'cause' | 'time' | 'stream' | 'partition' | 'offset'
> & {
  cause_zh?: string;
  event: BusEvent;
  /** `open`, `redriven`, `edited` or `discarded`. */
  state: string;
  closed_by: string | null;
  closed_at: string | null;
  /** Other flows with an open letter of the same event. */
  also_in: string[];
};

export type PublishResult = Fields<Api.Published, 'accepted' | 'rejected'> & { durability: Durability };

export type Session = Fields<Api.Session, 'users'> & {
  user: string | null;
  role: string | null;
  /** What the role allows: `publish`, `receive`, `read`, `operate`, `administer`. */
  rights?: string[];
};

/** What restricts a role; an absent list leaves it to the role. */
export type Rules = { [K in keyof Api.RulesView]?: string[] };

export type User = Fields<Api.User, 'name' | 'created'> & { role: string; rules: Rules };

export type Token = Fields<Api.Token, 'id' | 'name' | 'user' | 'created'> & {
  role: string;
  rules: Rules;
  expires: string | null;
};

/** A change and its author. */
export interface AuditEntry {
  id: string;
  time: string;
  user: string;
  via: string;
  origin: string;
  peer: string | null;
  action: string;
  target: string;
  message: string;
  message_zh?: string;
}

/** A sentence in both languages; what was recorded in English alone has no other. */
export interface Told {
  message: string;
  message_zh?: string;
}

/** An error: what it is, what it is about, and the sentence in both languages. */
export type ApiProblem = Fields<Api.Problem, 'code' | 'message'> & {
  class: 'transient' | 'permanent' | 'configuration';
  message_zh?: string;
  args?: Record<string, string>;
  span?: { start: number; end: number } | null;
  suggestion?: string | null;
  /** What led to it; what another system said is in its own words. */
  cause?: string;
  cause_zh?: string;
  /** What a check found in files, with places. */
  diagnostics?: Diagnostic[];
};

export type PluginSummary = Fields<
  Api.PluginView,
  'name' | 'language' | 'flows' | 'state' | 'given' | 'made' | 'failed'
> & {
  description: string | null;
  /** Why it does not run. */
  error: ApiProblem | null;
  /** Of all workers, in bytes. */
  memory: number;
  workers: number;
  /** How often workers have died. */
  deaths: number;
  /** Events a second. */
  rate: number;
};

export type PluginDetail = PluginSummary & Fields<Api.PluginDetail, 'files'>;

export type PluginLine = Fields<Api.PluginLineView, 'number' | 'time' | 'level' | 'worker' | 'text'>;

/** An event that a plug-in was given or made. */
export interface TrialEvent {
  topic: string;
  key: string | null;
  tags: Record<string, string>;
  payload?: unknown;
  payload_base64?: string;
}

export interface Trial {
  events: { given: TrialEvent; made: TrialEvent[]; error: ApiProblem | null }[];
  log: PluginLine[];
  took_ms: number;
}

/** What `/api/v1/live` sends each second. */
export interface Live {
  overview: Overview;
  flows: FlowDetail[];
}
