/** The way of an event through flows, as the node sends it. */
import { eventOf } from './wire/events';
import { num, object, objects, opt, problemIn, str, strings } from './wire/raw';
import type { ApiProblem, BusEvent } from './types';

export interface Trace {
  event: BusEvent;
  flows: TracedFlow[];
  orchestrations: TracedStart[];
  /** Why nothing could be said of orchestrations. */
  orchestrations_error: ApiProblem | null;
  /** Flows that were not computed, because there are many. */
  flows_left: string[];
  /** Events that were read to find results. */
  searched: number;
}

/** What an orchestration makes of an event: it starts an instance, or instances wait for it in a part. */
export interface TracedStart {
  orchestration: string;
  part: string | null;
  key: string | null;
  by: string | null;
  status: string | null;
  error: ApiProblem | null;
}

export interface TracedFlow {
  flow: string;
  version: number;
  version_time: string;
  error: ApiProblem | null;
  unread: ApiProblem | null;
  steps: TracedStep[];
  outputs: TracedOutput[];
  /** Of a flow with state. */
  lineage: TracedLineage | null;
  lineage_error: ApiProblem | null;
  letters: { id: string; step: string; cause: string; cause_zh: string; open: boolean }[];
}

export interface TracedStep {
  id: string;
  name: string | null;
  kind: string;
  label: string;
  fate: string;
  before: unknown[];
  before_rows: number;
  after: unknown[];
  after_rows: number;
  cause: ApiProblem | null;
}

export interface TracedOutput {
  id: string;
  name: string | null;
  kind: string;
  label: string;
  computed: boolean;
  events: { event: BusEvent; found: boolean }[];
  rows: unknown[];
  recorded: BusEvent[];
  cause: ApiProblem | null;
}

/** The results that an event is part of. */
export interface TracedLineage {
  results: {
    output: string;
    event: BusEvent | null;
    found: boolean;
    row: unknown;
    open: boolean;
    inputs: BusEvent[];
    more: number;
  }[];
  more: number;
  /** Events that the flow was run over again. */
  events: number;
  /** Whether these were all events before it. */
  whole: boolean;
}

const values = (v: unknown): unknown[] => (Array.isArray(v) ? (v as unknown[]) : []);
const NOWHERE: BusEvent = { topic: '', time: '' };

function readLineage(answer: unknown): TracedLineage | null {
  if (answer === undefined || answer === null) return null;
  const v = object(answer);
  return {
    results: objects(v.results).map((result) => ({
      output: str(result.output),
      event: result.event === undefined ? null : (eventOf(object(result.event)) ?? NOWHERE),
      found: result.found === true,
      row: result.row,
      open: result.open === true,
      inputs: objects(result.inputs).flatMap((one) => eventOf(one) ?? []),
      more: num(result.more),
    })),
    more: num(v.more),
    events: num(v.events),
    whole: v.whole === true,
  };
}

export function readTrace(answer: unknown): Trace {
  const v = object(answer);
  return {
    event: eventOf(object(v.event)) ?? NOWHERE,
    flows: objects(v.flows).map((flow) => ({
      flow: str(flow.flow),
      version: num(flow.version),
      version_time: str(flow.version_time),
      error: problemIn(flow.error) ?? null,
      unread: problemIn(flow.unread) ?? null,
      steps: objects(flow.steps).map((step) => ({
        id: str(step.id),
        name: opt(step.name),
        kind: str(step.kind),
        label: str(step.label),
        fate: str(step.fate),
        before: values(step.before),
        before_rows: num(step.before_rows),
        after: values(step.after),
        after_rows: num(step.after_rows),
        cause: problemIn(step.cause) ?? null,
      })),
      outputs: objects(flow.outputs).map((output) => ({
        id: str(output.id),
        name: opt(output.name),
        kind: str(output.kind),
        label: str(output.label),
        computed: output.computed === true,
        events: objects(output.events).map((made) => ({
          event: eventOf(object(made.event)) ?? NOWHERE,
          found: made.found === true,
        })),
        rows: values(output.rows),
        recorded: objects(output.recorded).flatMap((one) => eventOf(one) ?? []),
        cause: problemIn(output.cause) ?? null,
      })),
      lineage: readLineage(flow.lineage),
      lineage_error: problemIn(flow.lineage_error) ?? null,
      letters: objects(flow.letters).map((letter) => ({
        id: str(letter.id),
        step: str(letter.step),
        cause: str(letter.cause),
        cause_zh: str(letter.cause_zh),
        open: letter.open === true,
      })),
    })),
    orchestrations: objects(v.orchestrations).map((start) => ({
      orchestration: str(start.orchestration),
      part: opt(start.part),
      key: opt(start.key),
      by: opt(start.by),
      status: opt(start.status),
      error: problemIn(start.error) ?? null,
    })),
    orchestrations_error: problemIn(v.orchestrations_error) ?? null,
    flows_left: strings(v.flows_left),
    searched: num(v.searched),
  };
}
