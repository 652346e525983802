/** A search through a stream in bounded steps, with progress; it can be stopped and continued. */
import { call, problemOf } from './api';
import type { EventRow } from './tail.svelte';
import type { ApiProblem } from './types';
import { readSearch } from './wire/events';

/** Rows after which a search waits for the reader. */
export const SEARCH_ROWS_STEP = 500;
/** Rows kept in the page. */
export const SEARCH_ROWS_MAX = 5000;
/** Characters of events kept in the page. */
export const SEARCH_CHARS_MAX = 16 * 1024 * 1024;

export class Search {
  rows = $state.raw<EventRow[]>([]);
  /** Events read so far, and still to be read. */
  scanned = $state(0);
  remaining = $state(0);
  unreadable = $state(0);
  /** `idle` before the first search, `paused` when there is more to read. */
  state = $state<'idle' | 'running' | 'paused' | 'done' | 'full'>('idle');
  problem = $state.raw<ApiProblem | null>(null);
  #query: Record<string, string | undefined> = {};
  #from: string | undefined;
  #chars = 0;
  #next = 0;
  #abort: AbortController | null = null;

  /** Forgets what was found: the conditions on screen are others now. */
  clear(): void {
    this.stop();
    this.rows = [];
    this.scanned = 0;
    this.remaining = 0;
    this.unreadable = 0;
    this.#chars = 0;
    this.problem = null;
    this.state = 'idle';
  }

  /** Starts over with other conditions. */
  async start(query: Record<string, string | undefined>): Promise<void> {
    this.clear();
    this.#query = query;
    this.#from = query.from;
    await this.more();
  }

  /** Goes on until enough new rows are found, everything is read, or `stop` is called. */
  async more(): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    this.problem = null;
    this.state = 'running';
    let found = 0;
    try {
      while (found < SEARCH_ROWS_STEP) {
        const query = { ...this.#query, from: this.#from, limit: SEARCH_ROWS_STEP - found };
        const step = readSearch(await call('/search', { query, signal: abort.signal }));
        if (this.#abort !== abort) return;
        this.#from = step.next;
        this.scanned += step.scanned;
        this.remaining = step.remaining;
        this.unreadable += step.unreadable;
        found += step.events.length;
        this.#chars += step.chars;
        if (step.events.length > 0) this.#add(step.events, step.chars / step.events.length);
        if (step.end) {
          this.state = 'done';
          return;
        }
        if (this.rows.length >= SEARCH_ROWS_MAX || this.#chars >= SEARCH_CHARS_MAX) {
          this.state = 'full';
          return;
        }
      }
      this.state = 'paused';
    } catch (cause) {
      if (this.#abort !== abort || abort.signal.aborted) return;
      this.problem = problemOf(cause);
      this.state = 'paused';
    }
  }

  stop(): void {
    this.#abort?.abort();
    this.#abort = null;
    if (this.state === 'running') this.state = 'paused';
  }

  /** The node took none of the conditions, so there is no progress to show. */
  get isRefused(): boolean {
    return this.problem !== null && this.scanned === 0;
  }

  /** Part of the stream that has been read, from 0 to 1. */
  get progress(): number {
    const all = this.scanned + this.remaining;
    return all === 0 ? 1 : this.scanned / all;
  }

  /** Partitions are read in turn: their events are put in order here. */
  #add(events: EventRow['event'][], chars: number): void {
    const fresh = events.map((event): EventRow => ({ id: this.#next++, event, chars }));
    const sign = this.#query.order === 'oldest' ? 1 : -1;
    const order = (a: EventRow, b: EventRow) =>
      a.event.time === b.event.time
        ? ((a.event.offset ?? 0) - (b.event.offset ?? 0)) * sign
        : (a.event.time < b.event.time ? -1 : 1) * sign;
    this.rows = [...this.rows, ...fresh].sort(order);
  }
}
