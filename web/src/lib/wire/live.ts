/** What the node does now. */
import type { Live, Overview } from '../types';
import { connection } from './connections';
import { flow, readFlow } from './flows';
import { diagnostic, isObject, num, nums, object, objects, parsed, type Raw, str } from './raw';
import { stream } from './streams';

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
