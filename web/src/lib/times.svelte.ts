/** How times are shown on all pages: in the browser's zone, in UTC, or as the span to the present. */
import { remember, remembered } from './theme.svelte';

export type TimesChoice = 'local' | 'utc' | 'relative';

export const TIMES: TimesChoice[] = ['local', 'utc', 'relative'];
const KEY = 'busbar.times';

class Times {
  choice = $state<TimesChoice>('local');

  start(): void {
    const saved = remembered(KEY);
    this.choice = TIMES.find((one) => one === saved) ?? 'local';
  }

  choose(choice: TimesChoice): void {
    this.choice = choice;
    remember(KEY, choice);
  }

  /** Whether moments are in UTC. Relative times have moments in their titles, in the browser's zone. */
  get utc(): boolean {
    return this.choice === 'utc';
  }
}

export const times = new Times();
