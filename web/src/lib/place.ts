/** Places in flows, in words. */
import { t } from './i18n.svelte';

/** A place in a flow, counted from one: `step:0` is its first step; or what an orchestration read an event for. */
export function place(step: string): string {
  const [kind, at] = step.split(':');
  if (kind === 'step' && at !== undefined) return t('dead.at_step', { step: Number(at) + 1 });
  if (kind === 'to' && at !== undefined) return t('dead.at_output', { output: Number(at) + 1 });
  if (kind === 'decode') return t('dead.at_decode');
  if (kind === 'start') return t('dead.at_start');
  if (kind === 'part') return t('dead.at_part', { part: step.slice('part:'.length) });
  if (kind === 'from') return step.slice('from:'.length);
  return t('dead.at_step', { step });
}
