/**
 * A server-sent event stream that comes back by itself: back-off with jitter, a state that can be shown,
 * and no connection held by a tab nobody looks at (browsers allow six to a host).
 */
import { refusal } from './api';
import type { ApiProblem } from './types';

export type Link = 'connecting' | 'open' | 'reconnecting' | 'closed';

export const BACK_OFF_MS_MIN = 500;
export const BACK_OFF_MS_MAX = 15_000;
/** No message for this long on a stream that speaks each second means a dead connection. */
export const SILENCE_MS_MAX = 12_000;

/** The wait before attempt `n` (from 0): doubling to a bound, half of it random. */
export function backOff(attempt: number, random: () => number = Math.random): number {
  const full = Math.min(BACK_OFF_MS_MAX, BACK_OFF_MS_MIN * 2 ** Math.min(attempt, 20));
  return full / 2 + (full / 2) * random();
}

export interface SseHandlers {
  message: (data: string, kind: string) => void;
  link: (link: Link) => void;
  /** The node said no and why; no further attempt is made. */
  refused?: (problem: ApiProblem) => void;
}

export class Sse {
  static readonly #all = new Set<Sse>();
  #source: EventSource | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  #heard = 0;
  #attempt = 0;
  #stopped = false;
  #last = '';
  #lost = false;

  constructor(
    private readonly url: string,
    private readonly handlers: SseHandlers,
    private readonly options: { kinds?: string[]; chatty?: boolean; resume?: boolean } = {},
  ) {
    document.addEventListener('visibilitychange', this.#visibility);
    Sse.#all.add(this);
    handlers.link('connecting');
    this.#open();
  }

  close(): void {
    Sse.#all.delete(this);
    this.#stopped = true;
    document.removeEventListener('visibilitychange', this.#visibility);
    this.#drop();
    this.handlers.link('closed');
  }

  #open(): void {
    if (this.#stopped || this.#source || document.visibilityState === 'hidden') return;
    const source = new EventSource(this.#address());
    this.#source = source;
    this.#heard = Date.now();
    source.onopen = () => {
      this.#attempt = 0;
      this.#heard = Date.now();
      this.handlers.link('open');
      if (this.#lost && this.options.chatty) this.#wake();
      this.#lost = false;
    };
    const receive = (e: MessageEvent<string>) => {
      this.#heard = Date.now();
      if (e.lastEventId !== '') this.#last = e.lastEventId;
      this.handlers.message(e.data, e.type);
    };
    source.onmessage = receive;
    for (const kind of this.options.kinds ?? []) source.addEventListener(kind, receive);
    source.onerror = () => {
      // Closed by the browser: the answer was not a stream. What it was instead is worth knowing.
      if (source.readyState === EventSource.CLOSED) void this.#refused();
      else this.#retry();
    };
    if (this.options.chatty) {
      this.#watch = setInterval(() => {
        if (Date.now() - this.#heard > SILENCE_MS_MAX) this.#retry();
      }, 2000);
    }
  }

  /** After a break the stream goes on behind the last event that came. */
  #address(): string {
    if (!this.options.resume || this.#last === '') return this.url;
    const [path, query] = this.url.split('?');
    const search = new URLSearchParams(query);
    search.set('from', this.#last);
    return `${path}?${search}`;
  }

  async #refused(): Promise<void> {
    this.#drop();
    const problem = await refusal(this.url);
    if (this.#stopped) return;
    if (problem && problem.class !== 'transient' && this.handlers.refused) {
      this.#stopped = true;
      document.removeEventListener('visibilitychange', this.#visibility);
      this.handlers.link('closed');
      this.handlers.refused(problem);
    } else {
      this.#retry();
    }
  }

  /**
   * A quiet stream cannot tell silence from a connection that is gone (a machine that slept, a proxy that
   * kept its end). The one that speaks each second can: when it comes back, the others begin anew behind
   * their last event.
   */
  #wake(): void {
    for (const other of Sse.#all) {
      if (other === this || other.options.chatty || !other.#source) continue;
      other.#drop();
      other.#open();
    }
  }

  #retry(): void {
    this.#drop();
    this.#lost = true;
    if (this.#stopped) return;
    this.handlers.link('reconnecting');
    this.#timer = setTimeout(() => this.#open(), backOff(this.#attempt));
    this.#attempt += 1;
  }

  #drop(): void {
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    this.#source?.close();
    this.#source = null;
  }

  readonly #visibility = (): void => {
    if (document.visibilityState === 'hidden') {
      this.#drop();
    } else if (!this.#source) {
      this.#attempt = 0;
      // What came while nobody looked is in the stream; the tail goes on from now.
      this.#last = '';
      clearTimeout(this.#timer);
      this.#open();
    }
  };
}
