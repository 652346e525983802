/** A live tail: the last events of a topic filter, bounded, which can be paused without losing the count. */
import { url } from './api';
import { Sse, type Link } from './sse';
import type { ApiProblem, BusEvent } from './types';
import { readEvent } from './wire';

/** Rows kept in the page; older ones fall out. */
export const TAIL_ROWS_MAX = 2000;
/** What may wait while the tail is paused before the oldest fall out. */
export const HELD_ROWS_MAX = 2000;
/** A tail begins with so many events that are there already: a quiet stream is not an empty page. */
export const TAIL_BEGIN = 50;
/** Rows are taken over at this interval, so a fast stream costs a few redraws a second, not thousands. */
export const DRAW_MS = 150;

export interface TailRow {
  id: number;
  event: BusEvent;
}

export class Tail {
  rows = $state.raw<TailRow[]>([]);
  link = $state<Link>('closed');
  paused = $state(false);
  /** Events that came while paused. */
  held = $state(0);
  received = $state(0);
  /** Set when the node refuses the stream (a bad filter, say): reconnecting would not help. */
  problem = $state.raw<ApiProblem | null>(null);
  /** Parts of the log that could not be read: removed by retention, or damaged. */
  gaps = $state(0);
  #waiting: { id: number; data: string }[] = [];
  #next = 0;
  #sse: Sse | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;

  open(query: Record<string, string | undefined>): void {
    this.close();
    this.#waiting = [];
    this.rows = [];
    this.held = 0;
    this.received = 0;
    this.problem = null;
    this.gaps = 0;
    this.#next = 0;
    this.#sse = new Sse(
      url('/events', { ...query, from: `last:${TAIL_BEGIN}` }),
      {
        message: (data, kind) => {
          if (kind === 'gap') {
            this.gaps += 1;
            return;
          }
          this.add(data);
        },
        link: (link) => (this.link = link),
        refused: (problem) => (this.problem = problem),
      },
      { kinds: ['event', 'gap'], resume: true },
    );
    this.#timer = setInterval(() => this.draw(), DRAW_MS);
  }

  close(): void {
    this.#sse?.close();
    this.#sse = null;
    clearInterval(this.#timer);
  }

  /** An event as it came. It is read when it is drawn: most of a fast stream never is. */
  add(data: string): void {
    this.#waiting.push({ id: this.#next, data });
    this.#next += 1;
    // Dropped in blocks: shifting one by one would cost a copy for each event.
    if (this.#waiting.length > HELD_ROWS_MAX * 2) this.#waiting = this.#waiting.slice(-HELD_ROWS_MAX);
  }

  draw(): void {
    this.received = this.#next;
    if (this.paused) {
      const newest = this.rows[0]?.id ?? -1;
      this.held = this.#next - 1 - newest;
      return;
    }
    this.held = 0;
    if (this.#waiting.length === 0) return;
    const fresh = this.#waiting
      .slice(-TAIL_ROWS_MAX)
      .reverse()
      .flatMap(({ id, data }): TailRow[] => {
        const event = readEvent(data);
        return event ? [{ id, event }] : [];
      });
    this.#waiting = [];
    this.rows = [...fresh, ...this.rows].slice(0, TAIL_ROWS_MAX);
  }

  pause(on: boolean): void {
    this.paused = on;
    this.draw();
  }

  clear(): void {
    this.#waiting = [];
    this.rows = [];
    this.held = 0;
  }
}

/** Text to search and show of an event's payload: JSON as one line. */
export function payloadText(event: BusEvent): string {
  if (event.payload_base64 !== undefined) return event.payload_base64;
  if (event.payload === undefined || event.payload === null) return '';
  return typeof event.payload === 'string' ? event.payload : JSON.stringify(event.payload);
}

/** Whether a row contains the words, in topic, key, tags or payload; case does not matter. */
export function contains(event: BusEvent, words: string): boolean {
  const needle = words.trim().toLowerCase();
  if (needle === '') return true;
  if (event.topic.toLowerCase().includes(needle)) return true;
  if (event.key?.toLowerCase().includes(needle)) return true;
  if (event.tags && JSON.stringify(event.tags).toLowerCase().includes(needle)) return true;
  return payloadText(event).toLowerCase().includes(needle);
}
