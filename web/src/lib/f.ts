/** The formats of `format.ts` with the reader's language and choice of times; components that use them are
 * updated when these change. */
import * as format from './format';
import type { Time } from './format';
import { i18n, t } from './i18n.svelte';
import { times } from './times.svelte';

export const short = (n: number | null | undefined): string => format.short(n, i18n.language);
export const number = (n: number, decimals: number): string => format.number(n, i18n.language, decimals);
export const whole = (n: number | null | undefined): string => format.whole(n, i18n.language);
export const bytes = (n: number | null | undefined): string => format.bytes(n, i18n.language);
export const percent = (n: number): string => format.percent(n, i18n.language);
export const duration = (s: number | null | undefined): string => format.duration(s, i18n.language);

/** The time of day, whatever the choice of times: for axes. */
export const clock = (time: Time): string => format.clock(time, times.utc);
/** Date, time and zone, whatever the choice of times: for titles and details. */
export const moment = (time: Time): string => format.moment(time, times.utc);
export const zone = (): string => format.zone(new Date(), times.utc);

/** A moment as the reader wants times: with date and zone, or as the span to `now`. */
export const when = (time: Time, now: number): string =>
  times.choice === 'relative' ? ago(time, now) : moment(time);
/** The same in a narrow place: the time of day. */
export const briefly = (time: Time, now: number): string =>
  times.choice === 'relative' ? ago(time, now) : clock(time);
/** The other form of a moment, for its title. */
export const otherwise = (time: Time, now: number): string =>
  times.choice === 'relative' ? moment(time) : ago(time, now);
/** A time of an answer with all its digits; the zone stands in the column's head. */
export const stamp = (text: string, now: number): string =>
  times.choice === 'relative' ? ago(text, now) : format.stamp(text, times.utc);
/** The value of a `datetime-local` field, which is in the zone that times are shown in, as RFC 3339. */
export function typed(local: string): string | undefined {
  const date = format.asDate(times.utc && local !== '' ? `${local}Z` : local);
  return date?.toISOString();
}

/** A span or size as a file has it (`30d`, `4GB`), with its unit as people write it. */
export const spaced = (text: string): string => format.spaced(text, i18n.language);

/** Events a second, with its unit. A rate is measured over a second: more than one decimal would be noise. */
export const rate = (n: number | null | undefined): string =>
  t('unit.per_second', {
    n: short(typeof n === 'number' ? (n < 10 ? Math.round(n * 10) / 10 : Math.round(n)) : n),
  });

/** What a stream captures, in words where it has no pattern. */
export function captured(stream: { name: string; topics: string[] }): string {
  if (stream.topics.length > 0) return stream.topics.join(', ');
  return stream.name === 'inbox' ? t('streams.rest') : t('streams.by_flows');
}

/** How long ago, to `now`. */
export function ago(time: Time, now: number = Date.now()): string {
  const date = format.asDate(time);
  if (!date) return '–';
  const seconds = (now - date.getTime()) / 1000;
  // A publisher's clock may be ahead of ours: that is said, not hidden as "just now".
  if (seconds < -AHEAD_S_MAX) return t('time.ahead', { span: coarse(-seconds) });
  return seconds < 1 ? t('time.now') : t('time.ago', { span: coarse(seconds) });
}

/** Two clocks that differ by no more than this are the same to people. */
const AHEAD_S_MAX = 2;

/** A span in its largest unit only: the moment itself is a title away. */
function coarse(seconds: number): string {
  const unit = seconds < 60 ? 1 : seconds < 3600 ? 60 : seconds < 86_400 ? 3600 : 86_400;
  return duration(Math.floor(seconds / unit) * unit);
}
