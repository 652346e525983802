/**
 * What the REST API v1 sends (see /api/openapi.json of a running node). Times are RFC 3339 with `Z` and
 * microseconds, spans are seconds, sizes are bytes, rates are events a second.
 */
export type Durability = 'memory' | 'fsync' | 'replicated';

export interface Overview {
  version: string;
  time: string;
  uptime_s: number;
  memory_bytes: number;
  cores: number;
  /** Cores in use. */
  cpu: number;
  durability: Durability;
  events_in_per_s: number;
  events_out_per_s: number;
  /** Rates of the last minutes, oldest first, `step_s` apart. */
  history: { step_s: number; in: number[]; out: number[] };
  streams: StreamSummary[];
  flows: FlowSummary[];
  connections: ConnectionSummary[];
  dead: { count: number };
  disk: { used_bytes: number; free_bytes: number; total_bytes: number };
  /** Bytes between sockets and disk, and how many there may be. */
  budget?: { used_bytes: number; max_bytes: number };
  sessions?: number;
}

export interface StreamSummary {
  name: string;
  topics: string[];
  partitions: number;
  events: number;
  bytes: number;
  rate: number;
  durability: Durability;
  damaged: number;
  internal?: boolean;
  /** Its file is gone: it can be read and gets no events. */
  detached?: boolean;
}

export interface Partition {
  index: number;
  start: number;
  end: number;
  bytes: number;
}

export interface Field {
  name: string;
  type: string;
}

export interface Damage {
  file: string;
  offset: number;
  bytes: number;
  why: string;
}

export interface StreamDetail {
  name: string;
  topics: string[];
  format: string | null;
  /** What is older, or more, is removed, as the file says it; null keeps everything. */
  retention: { age: string | null; bytes: string | null };
  detached: boolean;
  durability: Durability;
  rate: number;
  events: number;
  bytes: number;
  partitions: Partition[];
  schema: Field[];
  damage: Damage[];
}

export interface BusEvent {
  topic: string;
  key?: string | null;
  time: string;
  tags?: Record<string, string>;
  client?: string | null;
  payload?: unknown;
  payload_base64?: string;
  stream?: string;
  partition?: number;
  offset?: number;
}

/** `running`, `retrying`, `waiting`, `paused`, `disabled` or `stopped`. */
export type FlowState = string;

export interface FlowSummary {
  name: string;
  state: FlowState;
  from: string;
  version?: number;
  in: number;
  out: number;
  filtered: number;
  dead: number;
  held: number;
  rate: number;
  lag: number;
  /** The event time that all its cursors have reached; none before the first event. */
  watermark?: string | null;
  error?: ApiProblem | null;
}

export interface FlowNode {
  id: string;
  kind: string;
  label: string;
  in: number;
  out: number;
  filtered: number;
  dead: number;
  held: number;
  rate: number;
  lag: number;
  watermark?: string | null;
  error?: ApiProblem | null;
  guarantee?: string | null;
}

export interface FlowEdge {
  from: string;
  to: string;
  rate?: number;
  backlog?: number;
  watermark?: string | null;
}

export interface Conservation {
  in: number;
  /** Rows that a query made beyond those it was given. */
  added: number;
  out: number;
  filtered: number;
  dead: number;
  held: number;
  balanced: boolean;
}

export interface FlowDetail extends FlowSummary {
  graph: { nodes: FlowNode[]; edges: FlowEdge[] };
  conservation: Conservation;
  /** Events that retention or damage took before the flow could read them. */
  missed: number;
  source?: string;
}

export interface Version {
  version: number;
  time: string;
  by?: string | null;
  note?: string | null;
  changes: Change[];
}

export interface Change {
  path: string;
  kind: 'added' | 'changed' | 'removed';
  meaning?: boolean;
}

export interface TableSummary {
  name: string;
  kind: string;
  rows: number;
  key: string[];
  columns: Field[];
  /** As the file says it: `10m`. */
  ttl?: string | null;
}

export interface ConnectionSummary {
  name: string;
  kind: string;
  direction: string;
  state: string;
  in: number;
  out: number;
  rate: number;
  guarantee?: string | null;
  error?: ApiProblem | null;
}

export interface SqlResult {
  columns: Field[];
  rows: unknown[][];
  truncated: boolean;
  elapsed_ms: number;
  /** Events left out because their payload does not decode to the columns asked for. */
  undecodable?: number;
  /** Events left out because they cannot be read from the disk. */
  unreadable?: number;
}

export interface DeadGroup {
  flow: string;
  step: string;
  code: string;
  cause: string;
  cause_zh?: string;
  count: number;
  first: string;
  last: string;
}

export interface DeadLetter {
  id: string;
  flow: string;
  step: string;
  code: string;
  cause: string;
  cause_zh?: string;
  time: string;
  stream: string;
  partition: number;
  offset: number;
  event: BusEvent;
}

export interface PublishResult {
  accepted: number;
  rejected: { index: number; code: string; message: string; message_zh?: string }[];
  durability: Durability;
}

export interface Session {
  user: string | null;
  role: string | null;
  /** True when the node has users, so a login is needed. */
  users: boolean;
}

/** An error as the API tells it: what it is, what it is about, and the sentence in both languages. */
export interface ApiProblem {
  class: 'transient' | 'permanent' | 'configuration';
  code: string;
  message: string;
  message_zh?: string;
  args?: Record<string, string>;
  span?: { start: number; end: number } | null;
  suggestion?: string | null;
  /** What a system below us said, in its own words. */
  cause?: string;
}

/** What `/api/v1/live` sends each second. */
export interface Live {
  overview: Overview;
  flows: FlowDetail[];
}
