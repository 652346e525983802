/** Orchestrations and their instances. */
import { stringify } from '../json';
import type { InstanceDetail, InstanceSummary, OrchestrationSummary, Told } from '../types';
import { list, num, object, objects, opt, type Raw, str, strings } from './raw';

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

const failureOf = (v: unknown): Told | null => {
  const { message, message_zh } = object(v);
  return typeof message === 'string' ? { message, message_zh: opt(message_zh) ?? undefined } : null;
};

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
  const payload = (p: unknown): string => (p == null ? '' : stringify(p));
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
