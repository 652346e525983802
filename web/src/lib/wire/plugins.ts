/** Plug-ins. */
import type { PluginDetail, PluginLine, PluginSummary, Trial, TrialEvent } from '../types';
import { list, num, object, objects, opt, problemIn, type Raw, str, strings, texts } from './raw';
import { type FlowDiff, readDiff } from './versions';

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
