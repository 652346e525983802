/** Light or dark: the system's choice until the user makes one, which is remembered. */
export type ThemeChoice = 'system' | 'light' | 'dark';

const KEY = 'busbar.theme';

class Theme {
  choice = $state<ThemeChoice>('system');
  /** What is on screen now; charts redraw when it changes. */
  shown = $state<'light' | 'dark'>('light');

  start(): void {
    const system = matchMedia('(prefers-color-scheme: dark)');
    const saved = remembered(KEY);
    if (saved === 'light' || saved === 'dark') this.choice = saved;
    system.addEventListener('change', () => this.#show());
    this.#show();
  }

  choose(choice: ThemeChoice): void {
    this.choice = choice;
    remember(KEY, choice === 'system' ? null : choice);
    this.#show();
  }

  #show(): void {
    const root = document.documentElement;
    if (this.choice === 'system') delete root.dataset.theme;
    else root.dataset.theme = this.choice;
    const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    this.shown = this.choice === 'system' ? system : this.choice;
  }
}

/** localStorage that may be forbidden or full: a preference that cannot be kept is not an error. */
export function remembered(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // Nothing is lost but the preference.
  }
}

export const theme = new Theme();
