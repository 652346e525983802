/** A live tail: the last events of a topic filter, bounded, which can be paused without losing the count. */
import { url } from './api';
import { Sse, type Link } from './sse';
import type { ApiProblem, BusEvent } from './types';
import { text } from './payload';
import { readEvent } from './wire';

/** Rows kept in the page; older ones fall out. */
export const TAIL_ROWS_MAX = 2000;
/** What may wait while the tail is paused before the oldest fall out. */
export const HELD_ROWS_MAX = 2000;
/** Characters of events kept in the page, shown or waiting each: rows of a megabyte must not fill the memory. */
export const TAIL_CHARS_MAX = 16 * 1024 * 1024;
/** A tail begins with so many events that are there already: a quiet stream is not an empty page. */
export const TAIL_BEGIN = 50;
/** Rows are taken over at this interval, so a fast stream costs a few redraws a second, not thousands. */
export const DRAW_MS = 150;

export interface TailRow {
  id: number;
  event: BusEvent;
  /** Its length as it came. */
  chars: number;
}

/** How many of `items`, newest first, may be kept. */
function kept(items: readonly number[], rows: number): number {
  let chars = 0;
  for (let i = 0; i < items.length; i += 1) {
    chars += items[i]!;
    // The newest is kept whatever its size.
    if (i >= rows || (i > 0 && chars > TAIL_CHARS_MAX)) return i;
  }
  return items.length;
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
  /** Older events than those shown fell out. */
  bounded = $state(false);
  #waiting: { id: number; data: string }[] = [];
  #waitingChars = 0;
  #next = 0;
  #sse: Sse | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;

  open(query: Record<string, string | undefined>): void {
    this.close();
    this.clear();
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
    this.#waitingChars += data.length;
    // Dropped in blocks: shifting one by one would cost a copy for each event.
    if (this.#waiting.length > HELD_ROWS_MAX * 2 || this.#waitingChars > TAIL_CHARS_MAX * 2) {
      const sizes = this.#waiting.map((w) => w.data.length).reverse();
      this.#waiting = this.#waiting.slice(-kept(sizes, HELD_ROWS_MAX));
      this.#waitingChars = this.#waiting.reduce((sum, w) => sum + w.data.length, 0);
      this.bounded = true;
    }
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
        return event ? [{ id, event, chars: data.length }] : [];
      });
    this.#waiting = [];
    this.#waitingChars = 0;
    const all = [...fresh, ...this.rows];
    const most = kept(
      all.map((r) => r.chars),
      TAIL_ROWS_MAX,
    );
    if (most < all.length) this.bounded = true;
    this.rows = all.slice(0, most);
  }

  /** What has come and is not shown yet. */
  get waiting(): { rows: number; chars: number } {
    return { rows: this.#waiting.length, chars: this.#waitingChars };
  }

  pause(on: boolean): void {
    this.paused = on;
    this.draw();
  }

  clear(): void {
    this.#waiting = [];
    this.#waitingChars = 0;
    this.rows = [];
    this.held = 0;
    this.bounded = false;
  }
}

/** Whether a row contains the words, in topic, key, tags or payload; case does not matter. */
export function contains(event: BusEvent, words: string): boolean {
  const needle = words.trim().toLowerCase();
  if (needle === '') return true;
  if (event.topic.toLowerCase().includes(needle)) return true;
  if (event.key?.toLowerCase().includes(needle)) return true;
  if (event.tags && JSON.stringify(event.tags).toLowerCase().includes(needle)) return true;
  return text(event).toLowerCase().includes(needle);
}
