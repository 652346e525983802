/** The two languages of the console: one catalogue each, loaded on demand. */
import type en from '../i18n/en.json';
import { remember, remembered } from './theme.svelte';

export type Language = 'en' | 'zh';
export type Key = keyof typeof en;
type Args = Record<string, string | number>;

const KEY = 'busbar.language';
const load: Record<Language, () => Promise<{ default: Record<string, string> }>> = {
  en: () => import('../i18n/en.json'),
  zh: () => import('../i18n/zh.json'),
};

/** The first language the browser asks for that we speak; English otherwise. */
export function preferred(languages: readonly string[]): Language {
  for (const tag of languages) {
    if (/^zh\b/i.test(tag)) return 'zh';
    if (/^en\b/i.test(tag)) return 'en';
  }
  return 'en';
}

/**
 * Puts `{name}` placeholders in, and of `{name:one|many}` the word that fits the number; one without a value
 * stays visible, so that a test or a user finds it.
 */
export function fill(text: string, args: Args): string {
  return text.replace(
    /\{(\w+)(?::([^{}|]*)\|([^{}|]*))?\}/g,
    (whole, name: string, one?: string, many?: string) => {
      if (!Object.hasOwn(args, name)) return whole;
      const value = String(args[name]);
      return one === undefined ? value : (value === '1' ? one : many)!;
    },
  );
}

class I18n {
  language = $state<Language>('en');
  #texts = $state.raw<Record<string, string>>({});

  async start(): Promise<void> {
    const saved = remembered(KEY);
    await this.#use(saved === 'en' || saved === 'zh' ? saved : preferred(navigator.languages));
  }

  async choose(language: Language): Promise<void> {
    remember(KEY, language);
    await this.#use(language);
  }

  /** BCP 47 tag for Intl. */
  get locale(): string {
    return this.language === 'zh' ? 'zh-CN' : 'en-GB';
  }

  text(key: Key, args: Args = {}): string {
    return fill(this.#texts[key] ?? key, args);
  }

  has(key: string): key is Key {
    return key in this.#texts;
  }

  async #use(language: Language): Promise<void> {
    this.#texts = (await load[language]()).default;
    this.language = language;
    document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  }
}

export const i18n = new I18n();

export const t = (key: Key, args?: Args): string => i18n.text(key, args);

/** A word the node sends (a state, a kind): translated when we know it, as it came otherwise. */
export function word(area: string, name: string): string {
  const key = `${area}.${name}`;
  return i18n.has(key) ? t(key) : name;
}
