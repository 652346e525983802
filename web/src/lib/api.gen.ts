/**
 * Types of the REST API. Made by `npm run types` from docs/reference/openapi.json; do not edit.
 */

/** The project's APIs. */
export interface ApiList {
  /** By name. */
  apis: ApiView[];
}

/** A parameter of an API. */
export interface ApiParameter {
  /** Its name. */
  name: string;
  /** Whether each call must give it. */
  required: boolean;
  /** Its type. */
  type: string;
}

/** An API of the project in short. Counts are since the node started. */
export interface ApiView {
  /** Calls answered with what was asked for. */
  answered_total: number;
  /** What it is for. */
  description?: string | null;
  /** Calls that failed within the node. */
  failed_total: number;
  /** Calls under way. */
  in_flight: number;
  /** Calls at the same time at most. */
  in_flight_max: number;
  last_call?: LastCall | null;
  last_failure?: LastCall | null;
  /** Calls answered with 202: the reply or the end had not come in time. */
  late_total: number;
  /** The methods that it answers. */
  methods: string[];
  /** Its name. */
  name: string;
  /** The orchestration that it starts instances of; for those who may read everything. */
  orchestration?: string | null;
  /** What callers give. */
  parameters: ApiParameter[];
  /** Where it is called: `/apis/NAME`. Its OpenAPI document is below, at `openapi.json`. */
  path: string;
  /** Calls refused. */
  refused_total: number;
  /** The stream with the replies to them; for those who may read it. */
  reply?: string | null;
  /** The role that may call it where no rules of a user or token say so: `viewer` or `operator`. */
  role: string;
  /** Where it is called as a web service: `/services/NAME`, with its WSDL at `?wsdl`. Absent where its file has no `soap`. */
  service?: string | null;
  /** The topic of the events that it publishes; for those who may read everything. */
  topic?: string | null;
  /** How long a caller waits for a reply or for the end of an instance, in seconds; absent where it waits for neither. */
  within_s?: number | null;
  /** What it does: `query`, `request`, `orchestration` or `fhir`. */
  work: string;
}

/** What was done to flows and connections. */
export interface AppliedView {
  /** Connections that were opened. */
  connections: string[];
  /** Flows that run in their new version. */
  deployed: string[];
  /** Flows that could not start, with the reason: the version before goes on, if there was one. */
  failed: Record<string, Problem>;
  /** What to know of how flows have begun, such as state that no step of the new version takes up. */
  notices: Record<string, Problem>;
  /** Flows that were removed. */
  removed: string[];
  /** Flows whose meaning did not change. */
  unchanged: string[];
}

/** A project to run. */
export interface Apply {
  /**
   * Add the files to those that run and remove none. A path that is there already is refused, so that nobody's change is
   * lost.
   */
  add?: boolean;
  /** Only check, and say what would change. */
  dry_run?: boolean;
  /** Path in the project (`flows/rain.yaml`) and text. What is not among them is removed. */
  files: Record<string, string>;
  /** Why, for the history. */
  note?: string;
  /**
   * Compute a flow again from the oldest event that is kept where its new version cannot go on with the state of the
   * one before. Without it that version does not start, and the one before goes on.
   */
  replay?: boolean;
}

/** A database that joins look rows up in, `call` steps ask and queries read. Numbers are since the process began. */
export interface AskedView {
  /** Keys that joins knew the answer for and did not ask. */
  cached: number;
  /** Those of them that failed. */
  failures: number;
  /** Those of them that there was a row for. */
  found: number;
  /** Open sessions that nobody uses. */
  idle: number;
  /** Keys that joins have asked for. */
  keys: number;
  /** Sessions that could not be opened. */
  not_opened: number;
  /** The most sessions that may be open at a time. */
  sessions: number;
  /** Statements that were sent. */
  statements: number;
  /** Sessions in use. */
  used: number;
}

/** A change and its author. */
export interface AuditEntry {
  /**
   * What was done: `user.add`, `user.change`, `user.remove`, `token.add`, `token.remove`, `project.apply`,
   * `flow.rollback`, `flow.pause`, `flow.resume`, `flow.replay`, `plugin.rollback`, `dead-letters.redrive`,
   * `dead-letters.discard`, `dead-letters.edit`, `table.repair`, `event.resend`,
   * `connection.snapshot`.
   */
  action: string;
  /** Names and values that say more, such as `role` or `version`. */
  detail: Record<string, string>;
  /** Its number. */
  id: string;
  /** The change in English. */
  message: string;
  /** The change in Chinese. */
  message_zh: string;
  /** Where the request was made: `console`, `cli`, `api`, or `node` for what the node did itself. */
  origin: string;
  /** The address the request came from. */
  peer?: string | null;
  /** The user, token, flow, version or dead letters that were changed. */
  target: string;
  /** When it was made. */
  time: string;
  /** The id of the token, if it was one. */
  token?: string | null;
  /** The user; `local` on a node without users, empty for what the node did itself. */
  user: string;
  /** How the user was authenticated: `password`, `session`, `token` or `local`. */
  via: string;
}

/** What an instance begins with. */
export interface BeginInstance {
  /** The values of the input. */
  input?: Record<string, unknown>;
  /**
   * How long to wait, such as `30s`, until it has ended or cannot go on before a person has decided; without it the
   * answer comes at once.
   */
  wait?: string | null;
}

/** The byte budget. */
export interface Budget {
  /** Bytes at which gateways stop reading. */
  max_bytes: number;
  /** Bytes in use. */
  used_bytes: number;
}

/** A service that `call` steps ask. */
export interface CalledView {
  /** Calls since the process began. */
  calls: number;
  /**
   * `closed` while calls pass, `open` while they wait because the service has failed several times in a row, `half-open`
   * while one call is on trial.
   */
  circuit: string;
  /** Those of them that failed for the moment and are tried again. */
  failures: number;
  /** Calls under way. */
  in_flight: number;
}

/** A condition on the newest version of a cell. */
export interface CellCondition {
  /** The cell. */
  column: string;
  /** `=`, `<`, `<=`, `>` or `>=`; `=` when absent. */
  is?: string | null;
  /** What it is compared with; null for a cell that does not exist. */
  value?: Record<string, unknown> | null;
}

/** A cell. */
export interface CellView {
  /** `family.qualifier`. */
  column: string;
  /** Its time. */
  time: string;
  /** What it holds: bytes as hexadecimal digits, times as text. */
  value: Record<string, unknown>;
}

/** What to change about a user. */
export interface ChangeBody {
  /** The present password: needed to change one's own from a session. */
  current_password?: string | null;
  /** The new password; ends the user's sessions. */
  password?: string | null;
  role?: RoleName | null;
  rules?: RulesView | null;
}

/** Changes of one row: deletions, then what is put. */
export interface ChangeRow {
  /** Families and cells to delete. */
  delete?: string[];
  /** Delete the whole row first. */
  delete_row?: boolean;
  /** The key. */
  key: Record<string, unknown>;
  /** Change the row only if all of these fit. */
  only_if?: CellCondition[];
  /** Cells and their values; null deletes one. */
  put?: Record<string, unknown>;
  /** The time of the cells; the time of writing when absent. */
  time?: string | null;
}

/** Changes of rows. */
export interface ChangeRows {
  /** All are made, or none. */
  rows: ChangeRow[];
}

/** A file whose text differs. */
export interface ChangeView {
  /** `added`, `changed` or `removed`. */
  kind: string;
  /** False when only comments, layout or flow tests differ: then nothing is started anew. */
  meaning?: boolean | null;
  /** The file's path in the project. */
  path: string;
}

/** What became of changes. */
export interface ChangedRows {
  /** For each row whether its conditions did fit. One whose conditions did not is as it was. */
  changed: boolean[];
}

/** Changes. */
export interface Changes {
  /** Newest first. */
  entries: AuditEntry[];
  /** Pass it as `before` for the next page; null on the last one. */
  next?: string | null;
}

/** Two tables to compare. */
export interface CompareTables {
  /** The first table: `CONNECTION:TABLE`, `CONNECTION:SCHEMA.TABLE`, or the name of one of the node's tables. */
  a: string;
  /** The second table. */
  b: string;
  /** Columns to compare, by their names in the first table; by default all that both have. */
  columns?: string[];
  /** With `repair`: deletes rows that only the second table has. */
  delete?: boolean;
  /** Columns that tell rows apart, by their names in the first table; by default its primary key. */
  key?: string[];
  /** Number of differing keys to list at most; 20 when absent. */
  listed?: number | null;
  /** Names of columns in the second table, by their names in the first, where they differ. */
  rename?: Record<string, string>;
  /** Writes the rows of the first table to the second where they differ or are missing. */
  repair?: boolean;
}

/** What a comparison found. A is the first table, B the second. */
export interface Compared {
  /** Columns that were compared, those of the key first, by their names in A. */
  columns: string[];
  /** Rows that were deleted from B. */
  deleted: number;
  /** Keys that are in both, with other values. */
  different: number;
  /** Rows that are the same in both. */
  equal: number;
  /** The first keys whose rows are not the same. */
  keys: ComparedKey[];
  /** Columns of A that B does not have. */
  left_out: string[];
  /** Keys that only A has. */
  only_a: number;
  /** Keys that only B has. */
  only_b: number;
  /** Counts and checksums by ranges of keys. */
  ranges: ComparedRange[];
  refusal?: Problem | null;
  /** Rows that B refused. */
  refused: number;
  /** Rows of A that were written to B. */
  repaired: number;
  /** Rows of A. */
  rows_a: number;
  /** Rows of B. */
  rows_b: number;
}

/** A key whose rows are not the same. */
export interface ComparedKey {
  /** Columns with other values, by their names in A. */
  columns: string[];
  /** The values of the key. */
  key: string;
  /** `different`, `only-a` or `only-b`. */
  state: string;
}

/** Counts and checksums of a range of keys. */
export interface ComparedRange {
  /** Checksum of the rows of A, in hexadecimal digits; the same as that of B where the rows are. */
  checksum_a: string;
  /** Checksum of the rows of B. */
  checksum_b: string;
  /** The first key. */
  from: string;
  /** Rows of A. */
  rows_a: number;
  /** Rows of B. */
  rows_b: number;
  /** The last key. */
  to: string;
}

/** A connection. */
export interface ConnectionView {
  /** What somebody should look at although it runs: it stands still while the other side goes on, changes may be missing. */
  alarms: Problem[];
  database?: AskedView | null;
  /** `source`, `sink`, `both`, or `service` for one that `call` steps ask and nobody writes to. */
  direction: string;
  error?: Problem | null;
  /** Flows that write to it or ask it. */
  flows: string[];
  /** What is promised across a crash to those who write to it. */
  guarantee?: string | null;
  /** Events it brought. */
  in: number;
  /** `host`, `file`, `http`, `mqtt`, `mysql`, `postgres`. */
  kind: string;
  /** Bytes that a source has yet to bring, if the other side says so. */
  lag_bytes?: number | null;
  /** Events of each part that a source has yet to bring, if the other side counts them: of each partition of Kafka. */
  lag_events: Record<string, number>;
  /** Its name. */
  name: string;
  /** Rows written to it. */
  out: number;
  /** Events it brought, or rows written to it, in the last second. */
  rate: number;
  service?: CalledView | null;
  /** Snapshots of tables that a source takes or has taken, by table. */
  snapshots: SnapshotView[];
  /** `starting`, `running`, `retrying`, `ended`, `stopped`, `disabled`, or `idle` (nobody writes to it). */
  state: string;
}

/** Connections. */
export interface Connections {
  /** By name. */
  connections: ConnectionView[];
}

/** The terms of the equation for the flow as a whole. */
export type ConservationView = Counts & {
  /** True when every event is accounted for. */
  balanced: boolean;
  /** What it is off by; anything but 0 is an alarm. */
  difference: number;
};

/** A column of the copy. */
export interface CopyColumnView {
  /** Its type in the first table. */
  from: string;
  /** Whether it is one of the key. */
  key: boolean;
  /** Its name. */
  name: string;
  /** The table that is copied, by connection and full name. */
  table: string;
  /** Its type in the second one. */
  to: string;
}

/** What would be written to the project. Nothing has been changed. */
export interface CopyPlanned {
  /** The columns. */
  columns: CopyColumnView[];
  /** What a check of the project with these files says, with file, line and column. */
  diagnostics: DiagnosticView[];
  /** Whether the second table is there already. */
  exists: boolean;
  /**
   * Paths and texts of the files, to be added to the project. In place of a secret stands `(hidden)`; when they are
   * applied it is that of the connection which the tables were named by.
   */
  files: Record<string, string>;
  /** The flows that copy, one for each table and direction. */
  flows: string[];
  /** The first table. */
  from: string;
  /** What the files are called. */
  name: string;
  /** Why the copy cannot be made; then there are no files. */
  refusals: Problem[];
  /** Which connection has the secrets of a file, by the file's path. */
  secrets: Record<string, string>;
  /** What has to be run in the databases first. */
  statements: CopyStatement[];
  /** The second table. */
  to: string;
  /** What one should know before. */
  warnings: Problem[];
}

/** One of the two tables. */
export type CopySide = "first" | "second";

/** What has to be run in a database. */
export interface CopyStatement {
  /** The connection that leads to the database. */
  connection: string;
  /** The statement, or a setting of the server. */
  statement: string;
  /** What it is for. */
  why: Problem;
}

/** A table to copy and to keep in step. */
export interface CopyTable {
  /** Changes of the second table come back to the first. */
  both_ways?: boolean;
  /**
   * The table: `CONNECTION:TABLE` or `CONNECTION:SCHEMA.TABLE`; several as `CONNECTION:A,B`, all of a schema as
   * `CONNECTION:SCHEMA.*`, or `CONNECTION:*`.
   */
  from: string;
  /** Columns that tell rows apart; by default the primary key. */
  key?: string[];
  /** Lets values be rounded or cut where the second table's columns cannot hold them whole. */
  lossy?: boolean;
  /** What the files are called; by default like the second table. For several tables it stands before the name of each. */
  name?: string | null;
  /** Rows of tables behind JDBC and ODBC drivers are copied once, and not followed. */
  once?: boolean;
  /**
   * Where to: the same, or a connection alone for a table of the same name; `hot:NAME`, `relational:NAME`, `wide:NAME` or a
   * name alone for a table of the node. A table that is not there is made. For several tables: a connection alone,
   * `CONNECTION:SCHEMA.*`, or `hot`, `relational` or `wide` alone.
   */
  to: string;
  /**
   * The column that grows with each change of a row, a time or a number: for `both_ways`, and for tables behind JDBC and
   * ODBC drivers, which are polled by it.
   */
  version?: string | null;
  wins?: CopySide | null;
}

/** What became of events. */
export interface Counts {
  /** Rows that were made beyond those that came: results of queries and windows. */
  added: number;
  /**
   * Rows that an output did not write because the row on the other side was changed there, and that change counts; for
   * the flow, those that every output left so.
   */
  conflicts: number;
  /** Events that became dead letters. */
  dead: number;
  /** Events that a condition left out. */
  filtered: number;
  /** Events under way. */
  held: number;
  /** Events that came. */
  in: number;
  /**
   * Events that came after the window, or whatever else they belong to, had been closed: they are in the stream
   * `<flow>.late`.
   */
  late: number;
  /** Events that went on. */
  out: number;
  /**
   * Rows of a table that a later row with the same key replaced within the same batch; for the flow,
   * those that nothing else of the flow kept.
   */
  overwritten: number;
  /** Events that went into the state of a step, or into a stream between two stages of the flow. */
  taken: number;
}

/** A place in a file that cannot be read. */
export interface DamageView {
  /** How long it is. */
  bytes: number;
  /** The file. */
  file: string;
  /** Byte at which it begins. */
  offset: number;
  /** Partition it belongs to. */
  partition: number;
  /** What is wrong. */
  why: string;
}

/** Dead letters. */
export interface Dead {
  /** How many are open: neither re-driven nor discarded. */
  count: number;
  /** Whether the oldest of them will soon be deleted by age or size. */
  expires_soon: boolean;
}

/** What a check found at a place in a file. */
export interface DiagnosticView {
  /** Names and values in the message. */
  args: Record<string, string>;
  /** The name for programs. */
  code: string;
  /** The column in characters, from 1. */
  column: number;
  /** The byte after the last one. */
  end: number;
  /** The file's path in the project. */
  file: string;
  /** What would be right, in English. */
  help?: string | null;
  /** What would be right, in Chinese. */
  help_zh?: string | null;
  /** The line, from 1. */
  line: number;
  /** What is wrong, in English. */
  message: string;
  /** What is wrong, in Chinese. */
  message_zh: string;
  /** `error` or `warning`. */
  severity: string;
  /** The first byte of the place in the file. */
  start: number;
}

/** What is different between two versions of a file. */
export interface Difference {
  /** The text in the newer version; empty when there is none. */
  after: string;
  /** The text in the older version; empty when there was none. */
  before: string;
  /** The difference in unified form. */
  diff: string;
}

/** What was discarded. */
export interface Discarded {
  /** How many letters. */
  discarded: number;
}

/** The disk under the data folder. */
export interface Disk {
  /** Bytes that are free. */
  free_bytes: number;
  /** Bytes in all. */
  total_bytes: number;
  /** Bytes the streams take. */
  used_bytes: number;
}

/** What was done to a flow. */
export interface Done {
  /** The flow. */
  flow: string;
  /** What it does now. */
  state: string;
}

/** From one node to the next. */
export interface EdgeView {
  /** Behind a `route`: the cases whose events go this way. */
  case?: string | null;
  /** The node it leaves. */
  from: string;
  /** Events that passed in the last second. */
  rate: number;
  /** The node it enters. */
  to: string;
  /** The watermark of what has passed. */
  watermark?: string | null;
}

/** A payload to send instead of the letter's own: one of the fields, or none to send it as it is. */
export interface Edited {
  /** The payload in base64. */
  payload_base64?: string | null;
  /** The payload as text, byte for byte. */
  payload_text?: string | null;
}

/** Where a new table is kept. */
export type Engine = "hot" | "relational";

/** An event to publish. */
export interface EventIn {
  /** What keeps it in order with others of the same key. */
  key?: string | null;
  /** Any JSON. A string stands for its text, everything else for its JSON, digit by digit. */
  payload?: unknown;
  /** Bytes, instead of `payload`. */
  payload_base64?: string | null;
  /** Quality of service at which MQTT subscribers get it: 0, 1 (as when absent) or 2. */
  qos?: number | null;
  /** Keep it as the last event of its topic. */
  retain?: boolean | null;
  /** Names and values. */
  tags?: Record<string, string> | null;
  time?: Moment | null;
  /** Where it belongs, such as `meter/m1/reading`. */
  topic: string;
}

/** An event as it is read. */
export interface EventView {
  /** Who published it. */
  client?: string | null;
  /** Its key; absent when it has none. */
  key?: string | null;
  /** Its place in the partition. */
  offset: number;
  /** The partition of the stream. */
  partition: number;
  /** The payload: JSON when it is JSON, else its text. */
  payload?: unknown;
  /** The payload, when it is not text. */
  payload_base64?: string | null;
  /** The stream that holds it. */
  stream: string;
  /** Names and values; absent when it has none. */
  tags?: Record<string, string> | null;
  /** When it happened. */
  time: string;
  /** Where it belongs. */
  topic: string;
}

/** A page of events. */
export interface Events {
  /** Whether this page reached the end of the stream. */
  end: boolean;
  /** In order, partition by partition. */
  events: EventView[];
  /** Where the next page begins. */
  next: string;
}

/** A column. */
export interface Field {
  /** Its name. */
  name: string;
  /** Its type, in words of SQL. */
  type: string;
}

/** The project that runs. */
export interface Files {
  /** Files in which what runs differs from the project's folder, from the folder to what runs. */
  differs?: ChangeView[];
  /** Path and text. In place of a secret stands `(hidden)`; applied again, it is what it was. */
  files: Record<string, string>;
  refused?: RefusedView | null;
}

/** A flow. */
export type FlowDetail = FlowSummary & {
  /** The equation `in + added = out + filtered + taken + late + dead + held + overwritten + conflicts`. */
  conservation: ConservationView;
  /** Its inputs, steps and outputs. */
  graph: Graph;
  /** Its steps `map` as in its file, by their ids in the graph; only where one flow is asked for. */
  mappings?: Record<string, Record<string, unknown>>;
  /** Events that retention or damage took before it could read them. */
  missed: number;
  /** The text of its file; only where one flow is asked for. */
  source?: string | null;
  /** When this version began to run. */
  started: string;
  /** Its cursors. */
  tasks: TaskView[];
};

/** The version of a flow to go back to. */
export interface FlowRollback {
  /**
   * Compute the flow again from the oldest event that is kept where that version cannot go on with the state that there
   * is. Without it the version does not start, `applied.failed` says why, and the one that runs goes on.
   */
  replay?: boolean;
  /** Its number. */
  version: number;
}

/** A flow in short. Counts are since the node started. */
export type FlowSummary = Counts & {
  error?: Problem | null;
  /** The streams it reads. */
  from: string;
  /** Committed events it has not read yet. */
  lag: number;
  /** Its name. */
  name: string;
  notice?: Problem | null;
  /** Events that came in the last second. */
  rate: number;
  /** `running`, `retrying`, `waiting` (for a first event to know columns by), `paused`, `disabled` or `stopped`. */
  state: string;
  /** The tables that its joins look rows up in. */
  tables?: string[];
  /** The version of the project it came with. */
  version: number;
  /**
   * The least watermark of its cursors: the greatest event time that all of them have seen, less the lateness of
   * the stream. None before the first event.
   */
  watermark?: string | null;
  /** Seconds from the watermark to the node's clock. */
  watermark_age_s?: number | null;
};

/** What a flow makes of an event. */
export interface FlowTraceView {
  error?: Problem | null;
  /** The flow. */
  flow: string;
  /** Its dead letters of the event. */
  letters: TracedLetter[];
  lineage?: LineageView | null;
  lineage_error?: Problem | null;
  /** The outputs, in their order in the flow. */
  outputs: TracedOutputView[];
  /** The version of the project that runs. */
  present: number;
  /** The steps, in their order in the flow. */
  steps: TracedStepView[];
  unread?: Problem | null;
  /** The version of the project that it was computed with. */
  version: number;
  /** When that was applied. */
  version_time: string;
}

/** Flows. */
export interface Flows {
  /** By name. */
  flows: FlowSummary[];
}

/** A new token. */
export type FreshToken = Token & {
  /** The token itself, shown this once. */
  token: string;
};

/** Gateways. */
export interface GatewayList {
  /** Those that settings switch on, then those of the project's files, each by name. */
  gateways: GatewayView[];
}

/** A gateway that runs. */
export interface GatewayView {
  /** Where it listens, as a URL: `amqp://127.0.0.1:5672`. */
  addresses: string[];
  /** Payload bytes taken. */
  bytes_in_total: number;
  /** Connections now. */
  connections: number;
  /** Connections since it started. */
  connections_total: number;
  /** Datagrams that the system dropped before they were read. */
  datagrams_lost_total: number;
  /** Events taken. */
  events_in_total: number;
  /** Events delivered. */
  events_out_total: number;
  /** Events refused. */
  events_refused_total: number;
  /** Logins refused. */
  logins_refused_total: number;
  /** Its name: the protocol for one that settings switch on, the file's name for one of the project. */
  name: string;
  /** Connections refused, or closed for what the client did. */
  refusals_total: number;
}

/** Rows by their keys. */
export interface GetRows {
  /** Families (`m`) or cells (`m.temp`; `temp` of the first family); all when absent. */
  columns?: string[];
  /** The keys, each an object with a member for each column of the key. */
  rows: (Record<string, unknown>)[];
  /** Versions of each cell at most; 1 when absent. */
  versions?: number | null;
}

/** Rows that were asked for by their keys. */
export interface GotRows {
  /** In the order of the keys; null for a row that is not there. */
  rows: (RowView | null)[];
}

/** A flow's graph. */
export interface Graph {
  /** What leads where. */
  edges: EdgeView[];
  /** Inputs, steps, outputs. */
  nodes: NodeView[];
}

/** Dead letters with one cause. */
export interface GroupView {
  /** The newest one's cause in English. */
  cause: string;
  /** The same in Chinese. */
  cause_zh: string;
  /** The class of the cause. */
  class: string;
  /** The code of the cause. */
  code: string;
  /** How many are open. */
  count: number;
  /** When the first one failed. */
  first: string;
  /** The flow. */
  flow: string;
  /** When the last one failed. */
  last: string;
  /** Where in the flow. */
  step: string;
  /** How many there are, closed ones too. */
  total: number;
  /** Whether others name something else, such as another value. */
  varies: boolean;
}

/** Dead letters by cause. */
export interface Groups {
  /** The one with the newest letter first. */
  groups: GroupView[];
}

/** Whether the process answers. */
export interface Health {
  /** `ok`. */
  status: string;
}

/** Rates, oldest first. */
export interface History {
  /** Events in a second, in. */
  in: number[];
  /** Events in a second, out. */
  out: number[];
  /** Seconds between two values. */
  step_s: number;
}

/** What became of the rows of a hot table since the node started. */
export interface HotRows {
  /** Bytes of memory that its rows take; none if they are elsewhere. */
  bytes?: number | null;
  /** Rows that made room for others; none if they are elsewhere. */
  evicted?: number | null;
  /** Rows whose time to live was over; none if they are elsewhere. */
  expired?: number | null;
  moves?: RowMoves | null;
  /** Where its rows are, if not in the node's memory: the connection, and what their keys begin with. */
  place?: string | null;
}

/** An id as text or number. */
export type Id = number | string;

/** A process to run. */
export interface ImportProcess {
  /** Only check, and say what would change. */
  dry_run?: boolean;
  /** Replace a flow of the same name. */
  replace?: boolean;
  /**
   * Compute the flow again from the oldest event that is kept where it cannot go on with the state that there is. Without it
   * the flow does not start, `applied.failed` says why, and the version before goes on.
   */
  replay?: boolean;
  /** The document, `esbprocess`. */
  xml: string;
}

/** A process that was, or would be, deployed. */
export type ImportedProcess = Outcome & {
  /** The text of the flow's file. */
  file: string;
  /** The flow that it is. */
  flow: string;
};

/** A sum that is added to a cell. */
export interface IncrementCell {
  /** What is added. */
  by: number;
  /** The cell. */
  column: string;
  /** The key. */
  key: Record<string, unknown>;
}

/** Sums to add. */
export interface IncrementCells {
  /** All are made, or none. */
  cells: IncrementCell[];
}

/** An instance in full. */
export type InstanceDetail = InstanceView & {
  /** What callers get, once it is done. */
  answer: Record<string, unknown>;
  /** What has happened to it, in order: the time, the place, what, payloads before and after, who, and why it failed. */
  history: (Record<string, unknown>)[];
  /** What it began with. */
  input: Record<string, unknown>;
  /** What was not undone, because a person said so. */
  skipped: string[];
  /** The input and what parts have given. */
  values: Record<string, unknown>;
  /** What it waits for: calls, times, events, persons and decisions. */
  waiting: (Record<string, unknown>)[];
};

/** Instances of an orchestration. */
export interface InstanceList {
  /** The newest first. */
  instances: InstanceView[];
  /** Where to go on, if there may be more. */
  next?: string | null;
}

/** What a person wants of an instance. */
export interface InstanceOrder {
  /**
   * `cancel`: undo what was done. `retry`: try again what cannot go on, or begin again what has failed or was cancelled.
   * `skip`: do not undo what cannot be undone. `pause`, `resume`. `answer`: fill in the form of a part that waits for a
   * person, or say what the event would have said that a part waits for.
   */
  order: string;
  /** With `answer`: the part. */
  part?: string | null;
  /** With `answer`: the values of the form. */
  values?: Record<string, unknown>;
}

/** An instance in short. */
export interface InstanceView {
  /** Where it is: the parts that are under way. */
  at: string[];
  /** When something last happened to it. */
  changed: string;
  /** Why it goes back or is stuck. */
  failure: Record<string, unknown>;
  /** The business key. */
  key: string;
  /** The orchestration. */
  orchestration: string;
  /** It was paused by hand. */
  paused: boolean;
  /** How often it has begun. */
  run: number;
  /** When it began. */
  started: string;
  /** What it is at. */
  status: string;
  /** The version that it runs. */
  version: number;
}

/** A call of an API that has ended. */
export interface LastCall {
  error?: Problem | null;
  /** The HTTP status of the answer. */
  status: number;
  /** When. */
  time: string;
}

/** A dead letter. */
export interface LetterView {
  /** Other flows that have an open letter of the same event. */
  also_in: string[];
  /** The cause in English. */
  cause: string;
  /** The cause in Chinese. */
  cause_zh: string;
  /** The class of the cause. */
  class: string;
  /** When it was closed; null while it is open. */
  closed_at?: string | null;
  /** The user who closed it; null while it is open, and when the flow read the event again and processed it. */
  closed_by?: string | null;
  /** The code of the cause. */
  code: string;
  /** The event itself. */
  event: EventView;
  /** The flow that could not process the event. */
  flow: string;
  /** Its id. */
  id: string;
  /** The offset. */
  offset: number;
  /** The partition. */
  partition: number;
  /** `open`, `redriven`, `edited` (re-driven with another payload) or `discarded`. */
  state: string;
  /** The place in the flow: `decode`, `step:0`, `to:1`. */
  step: string;
  /** The stream the event was read from. */
  stream: string;
  /** When it failed. */
  time: string;
}

/** Dead letters. */
export interface Letters {
  /**
   * How many different events these are: an event that several flows could not process has one letter in
   * each.
   */
  events: number;
  /** Newest first. */
  letters: LetterView[];
}

/** A result, and the events that it was made of. */
export interface LineageResultView {
  event?: EventView | null;
  /** Whether the log has it. */
  found: boolean;
  /** The events that it was made of, a hundred at most: they alone give it, unless there are more. */
  inputs: EventView[];
  /** Events that are part of it, or may be, and are not shown: there are too many. */
  more: number;
  /** It has not come out: the flow's state held it behind the last event that was read. */
  open: boolean;
  /** The id of the output in the flow's graph. */
  output: string;
  /** The row that it takes, for a table. */
  row?: unknown;
}

/** The results of a flow with state that an event is part of, from running the flow again over at most 4096 events around it. */
export interface LineageView {
  /** Events that the flow was run over again. */
  events: number;
  /** How many more there may be. */
  more: number;
  /** The results, the first 16 of them. */
  results: LineageResultView[];
  /**
   * Whether these were all events before it. Else what the flow's state held of older ones is missing, and a result that the
   * log does not have is not to be relied on.
   */
  whole: boolean;
}

/** The state of the node. */
export interface Live {
  /** The flows with all counters. */
  flows: FlowDetail[];
  /** The node at a glance. */
  overview: Overview;
}

/** A login. */
export interface Login {
  /** The password. */
  password: string;
  /** The user's name. */
  user: string;
}

/** An event that a flow makes. */
export interface MadeEventView {
  /** The event; of one that the log does not have, `stream` is empty, and `partition` and `offset` mean nothing. */
  event: EventView;
  /** Whether the log has it. */
  found: boolean;
}

/** A time: RFC 3339, or microseconds since 1970. */
export type Moment = number | string;

/** A token to add. */
export interface NewTokenBody {
  /** When it expires, RFC 3339. */
  expires?: string | null;
  /** What it is for. */
  name: string;
  role?: RoleName | null;
  /** What restricts the role. */
  rules?: RulesView;
}

/** A user to add. */
export interface NewUserBody {
  /** Letters, digits and `. _ - @`. */
  name: string;
  /** At least 8 characters. */
  password: string;
  role?: RoleName | null;
  /** What restricts the role. */
  rules?: RulesView;
}

/** A node of a flow's graph. */
export type NodeView = Counts & {
  error?: Problem | null;
  /** For outputs: `at-least-once` or `exactly-once` across a crash. */
  guarantee?: string | null;
  /** Unique in the flow. */
  id: string;
  /** `stream`, `where`, `select`, `sql`, `topic`, `table` or `connection`. */
  kind: string;
  /** The stream, the SQL, the topic's template, the table or the connection. */
  label: string;
  /** Committed events not read yet. */
  lag: number;
  /** Its name as an endpoint or mediation of a process, where the flow gives one. */
  name?: string | null;
  /** Events that came in the last second. */
  rate: number;
  /** Events that went on in the last second. */
  rate_out: number;
  /** `from`, `step` or `to`. */
  role: string;
  /** Tries since it last worked. */
  tries: number;
  /** For inputs and outputs: the least watermark of the cursors behind it. */
  watermark?: string | null;
};

/** No event was stored. */
export interface NotPublished {
  /** None; absent when the request was not read as far as its events. */
  accepted?: number | null;
  /** What "stored" would have meant. */
  durability?: string | null;
  /** Why the first one was not, or the whole request. */
  error: Problem;
  /** All events, the first thousand of them. */
  rejected?: Rejected[] | null;
  /** How many there are. */
  rejected_count?: number | null;
}

/** An operator that keeps state. */
export interface OperatorView {
  /** Bytes of state in memory. */
  memory_bytes: number;
  /** The name under which its state is kept. */
  name: string;
}

/** An orchestration in full. */
export type OrchestrationDetail = OrchestrationView & {
  /** What its file says, as JSON. */
  spec: Record<string, unknown>;
};

/** Orchestrations. */
export interface OrchestrationList {
  /** By name. */
  orchestrations: OrchestrationView[];
}

/** An orchestration in short. */
export interface OrchestrationView {
  /** What it is for. */
  description?: string | null;
  /** Whether it starts instances. */
  enabled: boolean;
  /** Instances by what they are at: those that have not ended, and those that have since the node started. */
  instances: Record<string, number>;
  /** Its name. */
  name: string;
}

/** What was, or would be, changed. */
export interface Outcome {
  applied?: AppliedView | null;
  /** Files whose text differs. */
  changes: ChangeView[];
  /** Warnings, with file, line and column. */
  diagnostics: DiagnosticView[];
  /**
   * Files in which what runs now differs from the project's folder, from the folder to what runs. They stay so until
   * they are changed in the folder, or the folder is applied.
   */
  differs?: ChangeView[];
  /** The version that runs now; absent for a dry run. */
  version?: number | null;
}

/** The node at a glance. */
export interface Overview {
  /** Bytes between sockets and disk, and how many there may be. */
  budget: Budget;
  /** The connections. */
  connections: ConnectionView[];
  /** Cores it may use. */
  cores: number;
  /** Cores it used in the last second. */
  cpu: number;
  /** Dead letters. */
  dead: Dead;
  /** The disk under the data folder. */
  disk: Disk;
  /** The weakest durability of any stream: `fsync` or `memory`. */
  durability: string;
  /** Events committed in the last second. */
  events_in_per_s: number;
  /** Events delivered to subscribers, and written by flows, in the last second. */
  events_out_per_s: number;
  /** The flows. */
  flows: FlowSummary[];
  /** Rates of the last five minutes. */
  history: History;
  /** Memory of the process. */
  memory_bytes: number;
  refused?: RefusedSave | null;
  /** MQTT clients that are connected. */
  sessions: number;
  /** The streams. */
  streams: StreamSummary[];
  /** The node's clock. */
  time: string;
  /** Seconds since it started. */
  uptime_s: number;
  /** The version that runs. */
  version: string;
}

/** A partition. */
export interface PartitionView {
  /** Bytes on disk. */
  bytes: number;
  /** Next offset. */
  end: number;
  /** Its number. */
  index: number;
  /** Oldest offset that is kept. */
  start: number;
}

/** A plug-in with its files. */
export type PluginDetail = PluginView & {
  /** Its files, by their paths within its folder. A file that is no text is a `data:` URL. */
  files: Record<string, string>;
};

/** What is different between two versions of a plug-in. */
export interface PluginDifference {
  /** Its files that differ, by their paths within its folder. */
  files: Record<string, Difference>;
}

/** The files of a plug-in. */
export interface PluginFiles {
  /** All of them, by their paths within its folder. */
  files: Record<string, string>;
}

/** A line of a plug-in's log. */
export interface PluginLineView {
  /** `debug`, `info`, `warning` or `error`. */
  level: string;
  /** Counts the lines of a version, from 1. */
  number: number;
  /** The text. */
  text: string;
  /** When it was written. */
  time: string;
  /** The worker that wrote it, from 0. */
  worker: number;
}

/** The log of a plug-in. */
export interface PluginLogView {
  /** The last lines, oldest first. */
  lines: PluginLineView[];
}

/** A plug-in. */
export interface PluginView {
  /** What it is for. */
  description?: string | null;
  /** Why it does not run. */
  error?: string | null;
  /** The same in Chinese. */
  error_zh?: string | null;
  /** Events that failed. */
  failed: number;
  /** The flows that use it. */
  flows: string[];
  /** Events that this version was given. */
  given: number;
  /** What it is written in. */
  language: string;
  /** Log lines that were dropped because there were too many within a second. */
  lines_dropped: number;
  /** Events that it has made. */
  made: number;
  /** Its name. */
  name: string;
  /** `running`, or `stopped` with an error. */
  state: string;
  /** Its workers. */
  workers: PluginWorkerView[];
}

/** A worker of a plug-in. */
export interface PluginWorkerView {
  /** How often it has died. */
  deaths: number;
  /** Memory that it takes, in bytes; 0 as long as it has done nothing. */
  memory: number;
  /** The number of its process; none for one within the node. */
  process?: number | null;
  /** How often it has been started. */
  starts: number;
}

/** Plug-ins. */
export interface Plugins {
  /** By name. */
  plugins: PluginView[];
}

/** What went wrong, for programs and for people. */
export interface Problem {
  /** Names and values in the sentence. */
  args: Record<string, string>;
  /** What led to it, when that is known. */
  cause?: string | null;
  /** The same for readers of Chinese; what another system said is in its own words. */
  cause_zh?: string | null;
  /** `transient` (try again), `permanent` (do not) or `configuration` (somebody must change something). */
  class: string;
  /** The name for programs, such as `bus.disk-full`. */
  code: string;
  /** The sentence in English. */
  message: string;
  /** The sentence in Chinese. */
  message_zh: string;
  span?: Span | null;
  /** For a query: what was probably meant. */
  suggestion?: string | null;
}

/** A flow as a process. */
export interface ProcessXml {
  /** The document, `esbprocess`. */
  xml: string;
}

/** What became of the events of a request. */
export interface Published {
  /** Events that are stored, as durable as `durability` says. */
  accepted: number;
  /** What "stored" means: `fsync` (on disk) or `memory` (a power cut may take them). */
  durability: string;
  /** Events that are not, the first thousand of them. */
  rejected: Rejected[];
  /** How many are not. */
  rejected_count: number;
}

/** A query. */
export interface Question {
  /** Number of rows to return at most. When absent: 1000 in a JSON document, all rows in lines. */
  limit?: number | null;
  /** The query, such as `select * from inbox limit 10`. */
  sql: string;
}

/** Rates of the last minute, oldest first. */
export interface Rates {
  /** Events a second of each flow. */
  flows: Record<string, number[]>;
  /** Seconds between two values. */
  step_s: number;
  /** Events a second of each stream. */
  streams: Record<string, number[]>;
}

/** Whether the node is ready for work. */
export interface Readiness {
  /** Threads that have ended although the node needs them. It has to be restarted. */
  failed?: string[];
  /** Why publishers are refused, by the code of the error that they get. */
  refusal?: string | null;
  /**
   * `ok`, or what keeps the node from its work: `starting`, `stopping`, or `failed` when a thread has ended
   * that the node needs.
   */
  status: string;
  /** False while publishers are refused because of the disk; readers go on. */
  writable: boolean;
}

/** The outcome of a re-drive. */
export interface Redriven {
  cause?: Problem | null;
  /** How many of them failed again. */
  died: number;
  /** Dead letters whose flow does not exist any more. */
  orphaned: number;
  /** Events sent through their flows again. */
  redriven: number;
  /** Dead letters that stay open, because sending them again could not give right results. */
  refused: number;
}

/** The answer to a request that was refused or failed. */
export interface Refused {
  /** What a check found in files, with places. Absent elsewhere. */
  diagnostics?: DiagnosticView[] | null;
  /** What went wrong. */
  error: Problem;
}

/** Files that were saved and do not check. `GET /api/v1/project` has all of it. */
export interface RefusedSave {
  /** How many mistakes there are. */
  count: number;
  first?: DiagnosticView | null;
  /** When they were looked at. */
  time: string;
}

/** Files that were saved and do not check: what ran before goes on. */
export interface RefusedView {
  /** What is wrong, with file, line and column. */
  diagnostics: DiagnosticView[];
  /** When they were looked at. */
  time: string;
}

/** An event that was not stored. */
export interface Rejected {
  /** The name of the reason. */
  code: string;
  /** Its place in the request, from 0. */
  index: number;
  /** The reason in English. */
  message: string;
  /** The reason in Chinese. */
  message_zh: string;
  /** True when the same event may be accepted later. */
  retry: boolean;
}

/** From where to read again. */
export interface Replay {
  /** `earliest`, `latest`, an RFC 3339 time, or a span back such as `-1h`. */
  from: string;
}

/** From where an event goes through a flow again. */
export interface Resend {
  /** The flow. */
  flow: string;
  /**
   * `event`: through the whole flow; `step:1`: the rows that this step was given go through it and those behind it;
   * `to:0`: what this output took goes to it.
   */
  from: string;
  /** The offset. */
  offset: number;
  /** The partition. */
  partition: number;
  /** The same in base64. */
  payload_base64?: string | null;
  /** With `event`: a payload in place of the event's own, as text. */
  payload_text?: string | null;
  /** The stream that holds the event. */
  stream: string;
  /**
   * The version of the project that computes what comes before; the one that ran at the time of the event when absent. What
   * is behind is the flow as it runs.
   */
  version?: number | null;
}

/** What was sent again. */
export interface ResentView {
  /** Events that failed again and are dead letters. */
  died: number;
  /** Rows that went to outputs. */
  sent: number;
}

/** A role. */
export type RoleName = "device" | "viewer" | "operator" | "admin";

/** The version to go back to. */
export interface Rollback {
  /** Its number. */
  version: number;
}

/** How rows of a hot table move to another table. */
export interface RowMoves {
  error?: Problem | null;
  /** How long the oldest row that is to be moved has waited beyond its time to live, in seconds. */
  lag_s: number;
  /** Rows moved. */
  moved: number;
  /** Rows in the table that the other one has rejected. They stay until they are written again or deleted. */
  rejected: number;
  /** The other table. */
  to: string;
}

/** A row. */
export interface RowView {
  /** Its cells, by family and qualifier, the newest version of each first. */
  cells: CellView[];
  /** Its key. */
  key: Record<string, unknown>;
}

/** The rows of a query. */
export interface Rows {
  /** The columns. Each name is unique: the second column named `site` becomes `site_2`. */
  columns: Field[];
  /** The time that the query took. */
  elapsed_ms: number;
  /** Number of events that have null in place of a value that does not fit its column. */
  partial: number;
  /** A list of values for each row, in the order of the columns. */
  rows: unknown[][];
  /** Whether there are more rows than the limit. */
  truncated: boolean;
  /** Number of events left out because their payload cannot be read. */
  undecodable: number;
  /** Number of events left out because they cannot be read from the disk. */
  unreadable: number;
}

/**
 * What restricts a role. `publish`: absent leaves it to the role; a list allows what it names and nothing
 * else. `subscribe` and `read` stand in for each other: with only one of them, it restricts both.
 */
export interface RulesView {
  /** `api:NAME`, or `#` for all APIs: these may be called whatever the role. */
  call?: string[] | null;
  /** Topic filters, or `stream:NAME`. */
  publish?: string[] | null;
  /** `stream:NAME`, `table:NAME`, or `#` for all. */
  read?: string[] | null;
  /** Topic filters, or `stream:NAME`. */
  subscribe?: string[] | null;
}

/** The runs of a flow. */
export interface RunList {
  /** Newest first: those under way, and the last that have ended. */
  runs: RunView[];
}

/** A run to start. */
export interface RunStart {
  create?: Engine | null;
  /** The least time of an event: `earliest`, an RFC 3339 time, or a span back such as `-1h`. */
  from?: string;
  /** The table that gets the results. */
  into: string;
  /** Times of events are before it: `latest`, an RFC 3339 time, or a span back such as `-1h`. */
  to?: string;
}

/** A run of a flow over a range of time. */
export interface RunView {
  /** Who began it. */
  by: string;
  /** Why the first of them could not. */
  cause?: string | null;
  /** The same in Chinese. */
  cause_zh?: string | null;
  /** Events and rows that could not be processed. They are counted and kept nowhere. */
  dead: number;
  /** When it ended. */
  ended?: string | null;
  error?: Problem | null;
  /** Events of the range. */
  events: number;
  /** The flow. */
  flow: string;
  /** The least time of an event; none when there is no bound. */
  from?: string | null;
  /** Its number. */
  id: number;
  /** The table that gets the results. */
  into: string;
  /** Events that came too late. They are counted and kept nowhere. */
  late: number;
  /** Events that retention or damage took before they could be read. */
  missed: number;
  /** Number of offsets that it has to read. */
  offsets: number;
  /** Number of offsets that it has read. */
  read: number;
  /** Rows that were written. */
  rows: number;
  /** When it began. */
  started: string;
  /** `running`, `done`, `failed` or `cancelled`. */
  state: string;
  /** Times of events are before it; none when there is no bound. */
  to?: string | null;
}

/** Rows in a range of keys. */
export interface ScanRows {
  /** `next` of the answer before: go on behind it. */
  after?: Record<string, unknown> | null;
  /** As for a get. */
  columns?: string[];
  /** Only rows that fit all of these. */
  filters?: CellCondition[];
  /** Bounds of the columns that follow: not less than these. */
  from?: Record<string, unknown>;
  /** Rows at most. */
  limit?: number | null;
  /** The values that the first columns of the key have. */
  prefix?: Record<string, unknown>;
  /** Less than these. */
  to?: Record<string, unknown>;
  /** As for a get. */
  versions?: number | null;
}

/** A part of a scan. */
export interface ScannedRows {
  /** What to send as `after` for the next part; absent at the end. */
  next?: Record<string, unknown> | null;
  /** In the order of their keys as they are stored. */
  rows: RowView[];
}

/** What one step of a search found. */
export interface SearchResult {
  /** True when everything has been searched. */
  end: boolean;
  /** The events found, in the order asked for within each partition. */
  events: EventView[];
  /** Where to go on. */
  next: string;
  /** Events that are still to be read. */
  remaining: number;
  /** Events read in this step. */
  scanned: number;
  /** Events in the searched part that retention or damage took. */
  unreadable: number;
}

/** Which open dead letters to act on: those that fit every field that is given. */
export interface Selection {
  /** Those with this code of their cause. */
  cause?: string | null;
  /** Those of this flow. */
  flow?: string | null;
  /** Those with these ids. */
  ids?: Id[] | null;
  /** Those of this place in a flow. */
  step?: string | null;
}

/** Who is logged in, and what they may do. */
export interface Session {
  /** Whether rules restrict this login to some topics, streams or tables. */
  restricted: boolean;
  /** What the role allows: `publish`, `receive`, `read`, `operate`, `administer`. */
  rights: string[];
  role?: RoleName | null;
  /** The user; null when nobody is logged in. */
  user?: string | null;
  /** Whether the node has users, so that a login is needed. */
  users: boolean;
}

/** A table whose snapshot is to be taken anew. */
export interface SnapshotAsked {
  /** The table, as `schema.table`. */
  table: string;
}

/** The snapshot of a table. */
export interface SnapshotView {
  /** Rows that the other side counted. */
  counted?: number | null;
  /** Rows that are there by what was sent, at the moment when the other side counted. */
  expected?: number | null;
  /** Rows that were read and sent. */
  rows: number;
  /**
   * `reading`; `counting`: all rows were read, and the other side counts them; `equal` and `different`: as many rows as it
   * counted are there by what was sent, or not; `uncompared`: that is not known.
   */
  state: string;
  /** The table. */
  table: string;
}

/** A range of bytes in a text. */
export interface Span {
  /** The byte after the last one. */
  end: number;
  /** The first byte. */
  start: number;
}

/** A stream. */
export type StreamDetail = StreamSummary & {
  /** Bytes that came in during the last second. */
  bytes_rate: number;
  /** Places that cannot be read. */
  damage: DamageView[];
  /** Next offset, of the first partition. */
  end: number;
  /** Each partition. */
  partition_list: PartitionView[];
  /** Columns that queries see. */
  schema: Field[];
  /** Its settings, as in its file. */
  spec: Record<string, unknown>;
  /** Oldest offset, of the first partition. */
  start: number;
};

/** The state of a stream. */
export interface StreamSummary {
  /** Bytes it holds. */
  bytes: number;
  /** Number of damaged places. */
  damaged: number;
  /** Whether its file was removed: it can be read, and receives no events. */
  detached: boolean;
  /** What an acknowledgement guarantees: `fsync` or `memory`. */
  durability: string;
  /** Events it holds. */
  events: number;
  /** Whether it is one of Busbar's own. */
  internal: boolean;
  /** Its name. */
  name: string;
  /** How many partitions it has. */
  partitions: number;
  /** Events in the last second. */
  rate: number;
  /** Topic patterns it captures; none for one that flows write to. */
  topics: string[];
}

/** Streams. */
export interface Streams {
  /** By name. */
  streams: StreamSummary[];
}

/** What cells hold after sums were added. */
export interface Sums {
  /** In the order of the request. */
  values: number[];
}

/** A table. */
export interface TableView {
  /** Columns; none until a flow without declared columns writes to it. */
  columns: Field[];
  error?: Problem | null;
  hot?: HotRows | null;
  /** Columns of the key. */
  key: string[];
  /** `hot` (in memory, of the node or of Redis), `relational` (SQLite, or a table of a database) or `wide` (cells on disk or in HBase). */
  kind: string;
  /** Its name. */
  name: string;
  /** Rows it has now; none where they cannot be counted. */
  rows?: number | null;
  /** Its settings, as in its file. */
  spec: Record<string, unknown>;
}

/** Tables. */
export interface Tables {
  /** By name. */
  tables: TableView[];
}

/** A message of the tail. */
export interface TailMessage {
  /**
   * Events in the log that have not been read yet; more than a moment's worth while the tail catches
   * up from an earlier start.
   */
  behind: number;
  /** The newest matching events since the message before, oldest first. */
  events: EventView[];
  /** Matching events since the message before, with those that are not in `events`. */
  matched: number;
  /** Matching events a second, over the last second. */
  rate: number;
}

/** A cursor of a flow. */
export interface TaskView {
  /** Behind a stage: the stream and partition whose watermark is the least, so that this cursor waits for it. */
  held_back_by?: string | null;
  /** Committed events behind it. */
  lag: number;
  /** `main`, or the connection whose own cursor this is. */
  lane: string;
  /** Its operators that keep state. */
  operators: OperatorView[];
  /** The partition. */
  partition: number;
  /** Every event before this offset is done with. */
  position: number;
  /** The stage of the flow that it runs: 0 reads the streams of the file, each next one the rows of the one before. */
  stage: number;
  /** The stream it reads. */
  stream: string;
  /**
   * The greatest time of the events before the position, less the lateness of the stream: an event that is
   * older comes late.
   */
  watermark?: string | null;
}

/** What a connection's other side answered. */
export interface Tested {
  /** How long it took to connect and to answer. */
  elapsed_ms: number;
  /** What it calls itself: `PostgreSQL 15.20`. */
  server: string;
}

/** A column of such a table. */
export interface ThereColumn {
  /** Whether it is one of the primary key. */
  key: boolean;
  /** Its name. */
  name: string;
  /** Its type, as the other side writes it. */
  type: string;
}

/** A table on the other side of a connection. */
export interface ThereTable {
  /** Its columns, in order. */
  columns: ThereColumn[];
  /** Its name. */
  name: string;
  /** About how many rows it has, as the other side estimates it. */
  rows?: number | null;
  /** The schema or database that it is in. */
  schema: string;
}

/** The tables on the other side of a connection. */
export interface ThereTables {
  /** What the other side calls itself. */
  server: string;
  /** Its tables, by schema and name. */
  tables: ThereTable[];
}

/** A token, without its secret. */
export interface Token {
  /** When it was added. */
  created: string;
  /** When it expires; null when it does not. */
  expires?: string | null;
  /** Its public id, part of the token. */
  id: string;
  /** What it is for. */
  name: string;
  /** Its role, at most its user's. */
  role: RoleName;
  /** What restricts the role, beside the user's own rules. */
  rules: RulesView;
  /** The user it belongs to. */
  user: string;
}

/** Tokens. */
export interface Tokens {
  /** One's own; all of them for an admin; only itself for a token that has less than its user. */
  tokens: Token[];
}

/** A topic and its last event. */
export interface TopicView {
  /** The event's key. */
  key?: string | null;
  /** The payload: JSON when it is JSON, else its text. */
  payload?: unknown;
  /** The payload, when it is not text. */
  payload_base64?: string | null;
  /** Names and values. */
  tags?: Record<string, string> | null;
  /** When it happened. */
  time: string;
  /** The topic. */
  topic: string;
}

/** Topics with their last values. */
export interface Topics {
  /** What to ask for `after`; absent on the last page. */
  next?: string | null;
  /** In order of their names. */
  topics: TopicView[];
}

/** The way of an event through the flows that read its stream. */
export interface TraceView {
  /** The event. */
  event: EventView;
  /** What each flow makes of it, by name. */
  flows: FlowTraceView[];
  /** Flows beyond the first 32; ask for each of them by its name. */
  flows_left: string[];
  /** What the orchestrations make of it that read its stream, as they run now; for those who may read everything. */
  orchestrations: TracedStartView[];
  orchestrations_error?: Problem | null;
  /** Events of other streams that were read to find results, at most 262144 for each flow. */
  searched: number;
}

/** A dead letter of an event. */
export interface TracedLetter {
  /** The cause in English. */
  cause: string;
  /** The cause in Chinese. */
  cause_zh: string;
  /** The code of the cause. */
  code: string;
  /** Its id. */
  id: string;
  /** Whether it is open. */
  open: boolean;
  /** The place in the flow. */
  step: string;
}

/** What an output takes of an event. */
export interface TracedOutputView {
  cause?: Problem | null;
  /** Whether what it takes was computed; else only `recorded` is known. */
  computed: boolean;
  /** Events that it takes. Those that the log has say where. */
  events: MadeEventView[];
  /** Its id in the flow's graph. */
  id: string;
  /** Its kind. */
  kind: string;
  /** Its target. */
  label: string;
  /** Its name as an out-endpoint, where the flow gives one. */
  name?: string | null;
  /** What the log has of the batch that the event was in, where nothing could be computed. */
  recorded: EventView[];
  /** Rows that it takes, for a table or a connection. */
  rows: unknown[];
}

/** What an orchestration makes of an event. */
export interface TracedStartView {
  /** What says which instances it is for, where they wait for it. */
  by?: string | null;
  error?: Problem | null;
  /** The business key of the instance that it starts, or that was there before. */
  key?: string | null;
  /** The orchestration. */
  orchestration: string;
  /** The part in which instances wait for it; absent where it starts an instance. */
  part?: string | null;
  /** What the instance is at; absent where it is not kept any more. */
  status?: string | null;
}

/** What a step made of an event. */
export interface TracedStepView {
  /** The rows that came out, the first hundred of them. */
  after: unknown[];
  /** How many came out. */
  after_rows: number;
  /** The rows it was given, the first hundred of them: the columns that the flow reads. */
  before: unknown[];
  /** How many it was given. */
  before_rows: number;
  cause?: Problem | null;
  /**
   * `passed`, `filtered`, `dead`, `not-reached`; or why it was not computed: `state`, `service`, `plugin`, or `unknown`
   * behind such a step.
   */
  fate: string;
  /** Its id in the flow's graph. */
  id: string;
  /** Its kind. */
  kind: string;
  /** What it does, in short. */
  label: string;
  /** Its name as a mediation, where the flow gives one. */
  name?: string | null;
}

/** What is tried on which events. */
export interface Trial {
  /** How many, up to 100. */
  events?: number;
  /** All files of the plug-in, by their paths within its folder. */
  files: Record<string, string>;
  /** The stream whose last events it is tried on. */
  stream: string;
}

/** What a plug-in made of events. Nothing of it was published. */
export interface TrialView {
  /** For each event, oldest first. */
  events: TriedView[];
  /** What the plug-in has logged. */
  log: PluginLineView[];
  /** How long it worked on the events, in milliseconds. */
  took_ms: number;
}

/** An event that would be published. */
export interface TriedEventView {
  /** Its key; absent when it has none. */
  key?: string | null;
  /** The payload: JSON when it is JSON, else its text. */
  payload?: unknown;
  /** The payload, when it is not text. */
  payload_base64?: string | null;
  /** Names and values. */
  tags: Record<string, string>;
  /** Where it belongs. */
  topic: string;
}

/** What came of one event. */
export interface TriedView {
  error?: Problem | null;
  /** The event. */
  given: EventView;
  /** What would be published in its place. */
  made: TriedEventView[];
}

/** A user. */
export interface User {
  /** When it was added. */
  created: string;
  /** The name. */
  name: string;
  /** What it may do. */
  role: RoleName;
  /** What restricts the role. */
  rules: RulesView;
}

/** The users. */
export interface Users {
  /** By name. */
  users: User[];
}

/** A version of the project. */
export interface VersionView {
  /** Who applied it. */
  by: string;
  /** Files that differ from the version before. */
  changes: ChangeView[];
  /** Why. */
  note: string;
  /** When it was applied. */
  time: string;
  /** Its number, from 1. */
  version: number;
}

/** Versions. */
export interface Versions {
  /** Newest first. */
  versions: VersionView[];
}
