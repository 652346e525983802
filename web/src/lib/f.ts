/** The formats of `format.ts` in the language on screen: reading them in a component tracks the language. */
import * as format from './format';
import { i18n, t } from './i18n.svelte';

export const short = (n: number | null | undefined): string => format.short(n, i18n.language);
export const number = (n: number, decimals: number): string => format.number(n, i18n.language, decimals);
export const whole = (n: number | null | undefined): string => format.whole(n, i18n.language);
export const bytes = (n: number | null | undefined): string => format.bytes(n, i18n.language);
export const percent = (n: number): string => format.percent(n, i18n.language);
export const duration = (s: number | null | undefined): string => format.duration(s, i18n.language);
export const clock = (time: string | number | Date | null | undefined): string =>
  format.clock(time, i18n.language);
export const moment = (time: string | number | Date | null | undefined): string =>
  format.moment(time, i18n.language);
export const zone = (): string => format.zone(new Date(), i18n.language);

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
export function ago(time: string | number | Date | null | undefined, now: number = Date.now()): string {
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
