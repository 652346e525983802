/** Dead letters. */
import type { DeadGroup, DeadLetter } from '../types';
import { eventOf } from './events';
import { list, num, object, opt, type Raw, str, strings } from './raw';

function group(v: Raw): DeadGroup {
  return {
    flow: str(v.flow),
    step: str(v.step),
    code: str(v.code),
    cause: str(v.cause),
    cause_zh: opt(v.cause_zh) ?? undefined,
    varies: v.varies === true,
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
