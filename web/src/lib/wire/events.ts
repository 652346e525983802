/** Events, one after the other and searched for. */
import { text } from '../payload';
import type { BusEvent } from '../types';
import { list, num, object, objects, parsed, type Raw, str } from './raw';

export interface TailMessage {
  events: BusEvent[];
  matched: number;
  rate: number;
  behind: number;
}

export function readTail(data: string): TailMessage | null {
  const value = parsed(data);
  if (!value || !Array.isArray(value.events)) return null;
  return {
    events: events(value.events),
    matched: num(value.matched),
    rate: num(value.rate),
    behind: num(value.behind),
  };
}

export interface SearchStep extends Omit<TailMessage, 'matched' | 'rate' | 'behind'> {
  next: string;
  end: boolean;
  scanned: number;
  remaining: number;
  unreadable: number;
  /** Length of the events. */
  chars: number;
}

export function readSearch(answer: unknown): SearchStep {
  const v = object(answer);
  const found = events(v.events);
  return {
    events: found,
    next: str(v.next),
    end: v.end !== false,
    scanned: num(v.scanned),
    remaining: num(v.remaining),
    unreadable: num(v.unreadable),
    chars: found.reduce((sum, one) => sum + text(one).length + 200, 0),
  };
}

const events = (v: unknown): BusEvent[] =>
  objects(v).flatMap((one) => {
    const found = eventOf(one);
    return found ? [found] : [];
  });

export function readEvent(data: string): BusEvent | null {
  const value = parsed(data);
  return value ? eventOf(value) : null;
}

export function eventOf(v: Raw): BusEvent | null {
  return typeof v.topic === 'string' ? (v as unknown as BusEvent) : null;
}

export const readTopics = (v: unknown): BusEvent[] => events(list(v, 'topics'));
