/** The node's state as `/api/v1/live` tells it each second, with short histories for sparklines. */
import { pushed } from './ring';
import { Sse, type Link } from './sse';
import type { FlowDetail, Live, Overview } from './types';
import { url } from './api';
import { call } from './api';
import { readLive, readRates, type Rates } from './wire/live';

/** Seconds of history kept in the page: what the large chart shows. */
export const HISTORY_S = 300;
/** A hole in what came that is longer than this is filled from the node's history. */
export const GAP_S_MAX = 5;
/** Points of a sparkline. */
export const SPARK_POINTS = 60;

class LiveState {
  link = $state<Link>('closed');
  overview = $state.raw<Overview | null>(null);
  flows = $state.raw<Map<string, FlowDetail>>(new Map());
  /** Unix seconds, in, out: the columns of the large chart. */
  times = $state.raw<number[]>([]);
  rateIn = $state.raw<number[]>([]);
  rateOut = $state.raw<number[]>([]);
  streamRates = $state.raw<Map<string, number[]>>(new Map());
  flowRates = $state.raw<Map<string, number[]>>(new Map());
  /** Milliseconds of this clock when the last message came; "how long ago" counts from here. */
  now = $state(Date.now());
  /** The node's own clock at that message, in milliseconds: what a watermark is compared with. */
  time = $state(Date.now());

  #sse: Sse | null = null;

  start(): void {
    this.#sse ??= new Sse(
      url('/live'),
      {
        message: (data) => {
          const live = readLive(data);
          if (live) this.take(live);
        },
        link: (link) => (this.link = link),
      },
      { kinds: ['live', 'overview'], chatty: true },
    );
  }

  stop(): void {
    this.#sse?.close();
    this.#sse = null;
  }

  take({ overview, flows }: Live): void {
    const at = Date.parse(overview.time) / 1000 || Date.now() / 1000;
    // After a pause (a hidden tab, a lost connection) the node's own history fills the hole.
    const last = this.times.at(-1);
    if (last === undefined || at - last > GAP_S_MAX) this.#seed(overview, at);
    this.times = pushed(this.times, at, HISTORY_S);
    this.rateIn = pushed(this.rateIn, overview.events_in_per_s, HISTORY_S);
    this.rateOut = pushed(this.rateOut, overview.events_out_per_s, HISTORY_S);
    this.streamRates = grown(this.streamRates, overview.streams);
    this.flowRates = grown(this.flowRates, overview.flows);
    this.flows = new Map(flows.map((f) => [f.name, f]));
    this.overview = overview;
    this.now = Date.now();
    this.time = at * 1000;
  }

  /** The node remembers some history; the chart starts with it instead of with nothing. */
  #seed({ history }: Overview, at: number): void {
    const n = Math.min(history.in.length, history.out.length, HISTORY_S - 1);
    this.rateIn = history.in.slice(history.in.length - n);
    this.rateOut = history.out.slice(history.out.length - n);
    this.times = this.rateIn.map((_, i) => at - (n - i) * history.step_s);
    this.streamRates = new Map();
    this.flowRates = new Map();
    // Lines that are short at first are better than a page that waits; a node that does not answer
    // shows that by its link already.
    void call('/rates').then(
      (rates) => this.fill(readRates(rates)),
      () => {},
    );
  }

  /** Puts the node's last minute in front of what has come since it was asked for. */
  fill({ streams, flows }: Rates): void {
    this.streamRates = joined(streams, this.streamRates);
    this.flowRates = joined(flows, this.flowRates);
  }
}

function grown(old: Map<string, number[]>, items: { name: string; rate: number }[]): Map<string, number[]> {
  return new Map(items.map(({ name, rate }) => [name, pushed(old.get(name) ?? [], rate, SPARK_POINTS)]));
}

/** The second that the node told as its last is the first that came: what is here already is newer. */
function joined(before: Map<string, number[]>, since: Map<string, number[]>): Map<string, number[]> {
  return new Map(
    [...since].map(([name, values]) => {
      const old = before.get(name) ?? [];
      const missing = SPARK_POINTS - values.length;
      const end = Math.max(0, old.length - 1);
      return [name, [...old.slice(Math.max(0, end - missing), end), ...values]];
    }),
  );
}

export const live = new LiveState();
