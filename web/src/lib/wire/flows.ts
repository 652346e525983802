/** Flows, what each step of them does, and the processes that they are shown as. */
import { isNumber } from '../json';
import type { FlowDetail, FlowPlan, FlowSummary, MappedField, Mapping } from '../types';
import { isObject, list, num, object, objects, opt, problemIn, type Raw, str, strings } from './raw';

export function flow(v: Raw): FlowSummary {
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

export const readFlows = (v: unknown): FlowSummary[] => list(v, 'flows').map(flow);

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

/** A flow reads one stream or several, which are told as one text. */
export const sources = (from: string): string[] =>
  from
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
