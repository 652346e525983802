/** Streams. */
import type { StreamDetail, StreamSummary } from '../types';
import { fields, list, num, object, objects, opt, type Raw, shown, str, strings } from './raw';

export function stream(v: Raw): StreamSummary {
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

export const readStreams = (v: unknown): StreamSummary[] => list(v, 'streams').map(stream);

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
