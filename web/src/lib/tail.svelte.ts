/** A live tail: the newest events of a stream, sampled by the node, which can be paused at once. */
import { url } from './api';
import { Sse, type Link } from './sse';
import type { ApiProblem, BusEvent } from './types';
import { readTail } from './wire/events';

/** Rows kept in the page; older ones are removed. */
export const TAIL_ROWS_MAX = 2000;
/** Characters of events kept in the page: rows of a megabyte must not fill the memory. */
export const TAIL_CHARS_MAX = 16 * 1024 * 1024;
/** A tail starts with this many events that are there already, so that a quiet stream is not an empty page. */
export const TAIL_BEGIN = 50;

export interface EventRow {
  id: number;
  event: BusEvent;
  /** Length of its payload. */
  chars: number;
}

/** The newest rows that fit into the bounds; rows are newest first. */
function kept(rows: EventRow[]): EventRow[] {
  let chars = 0;
  for (let i = 0; i < rows.length; i += 1) {
    chars += rows[i]!.chars;
    // The newest is kept whatever its size.
    if (i >= TAIL_ROWS_MAX || (i > 0 && chars > TAIL_CHARS_MAX)) return rows.slice(0, i);
  }
  return rows;
}

export class Tail {
  rows = $state.raw<EventRow[]>([]);
  link = $state<Link>('closed');
  paused = $state(false);
  /** Matching events that came while paused. */
  held = $state(0);
  /** Matching events since the tail was opened. */
  received = $state(0);
  /** Matching events of which the node sent only a part. */
  sampled = $state(false);
  /** Matching events a second. */
  rate = $state(0);
  /** Events in the log that the tail has not reached yet, when it started in the past. */
  behind = $state(0);
  /** Set when the node refuses the request; reconnecting would not help. */
  problem = $state.raw<ApiProblem | null>(null);
  /** Parts of the log that could not be read: removed by retention, or damaged. */
  gaps = $state(0);
  /** Whether older rows were removed. */
  bounded = $state(false);
  /** Rows that came while paused, newest first. */
  #waiting: EventRow[] = [];
  #next = 0;
  #sse: Sse | null = null;

  open(query: Record<string, string | undefined>): void {
    this.close();
    this.clear();
    this.received = 0;
    this.rate = 0;
    this.behind = 0;
    this.sampled = false;
    this.problem = null;
    this.gaps = 0;
    this.paused = false;
    this.#sse = new Sse(
      url('/tail', { ...query, from: query.from ?? `last:${TAIL_BEGIN}` }),
      {
        message: (data, kind) => {
          if (kind === 'gap') this.gaps += 1;
          else this.take(data);
        },
        link: (link) => (this.link = link),
        refused: (problem) => (this.problem = problem),
      },
      { kinds: ['tail', 'gap'], resume: true },
    );
  }

  close(): void {
    this.#sse?.close();
    this.#sse = null;
  }

  /** A message of the node: at most seven a second, whatever the rate of events. */
  take(data: string): void {
    const message = readTail(data);
    if (!message) return;
    this.received += message.matched;
    this.rate = message.rate;
    this.behind = message.behind;
    if (message.events.length < message.matched) this.sampled = true;
    if (message.events.length > 0) {
      const share = data.length / message.events.length;
      const fresh = message.events.map((event): EventRow => ({ id: this.#next++, event, chars: share }));
      fresh.reverse();
      const shown = this.paused ? this.#waiting : this.rows;
      const all = kept([...fresh, ...shown]);
      if (all.length < fresh.length + shown.length) this.bounded = true;
      if (this.paused) this.#waiting = all;
      else this.rows = all;
    }
    if (this.paused) this.held += message.matched;
  }

  pause(on: boolean): void {
    this.paused = on;
    if (on) return;
    const all = kept([...this.#waiting, ...this.rows]);
    if (all.length < this.#waiting.length + this.rows.length) this.bounded = true;
    this.rows = all;
    this.#waiting = [];
    this.held = 0;
  }

  clear(): void {
    this.#waiting = [];
    this.rows = [];
    this.held = 0;
    this.bounded = false;
  }
}
