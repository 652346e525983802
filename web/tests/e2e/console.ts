/** What every browser test needs: a page that fails the test when the browser complains. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test as base, expect, type Page } from '@playwright/test';
import { RealNode } from './node';

interface Watch {
  /** Complaints a test provokes on purpose, as parts of their text. */
  expected: string[];
}

/** All tests of a worker share one real node. */
export const test = base.extend<{ watch: Watch }, { node: RealNode }>({
  node: [
    async ({}, use) => {
      const node = await RealNode.start('host-watch');
      try {
        await use(node);
      } finally {
        await node.stop();
      }
    },
    { scope: 'worker', timeout: 180_000 },
  ],
  baseURL: ({ node }, use) => use(node.url),
  watch: [
    async ({ page }, use) => {
      const watch: Watch = { expected: [] };
      const found: string[] = [];
      page.on('console', (m) => {
        if (m.type() === 'error' || m.type() === 'warning')
          found.push(`console: ${m.text()} ${m.location().url}`);
      });
      page.on('pageerror', (e) => found.push(`error: ${e.message}`));
      page.on('requestfailed', (r) => {
        // A request that the page itself gave up (a stream that is closed, a question asked again).
        if (r.failure()?.errorText !== 'net::ERR_ABORTED')
          found.push(`failed: ${r.url()} ${r.failure()?.errorText}`);
      });
      page.on('response', (r) => {
        if (r.status() >= 400) found.push(`status ${r.status()}: ${r.url()}`);
      });
      await use(watch);
      expect(found.filter((text) => !watch.expected.some((part) => text.includes(part)))).toEqual([]);
    },
    { auto: true },
  ],
});

export { expect };

export async function open(page: Page, hash = '#/'): Promise<void> {
  await visit(page, hash);
  await expect(page.locator('[data-link="open"]')).toBeVisible();
}

/** Goes to a page and waits until it is on screen: the one before stays there while the next one is fetched. */
export async function visit(page: Page, hash: string): Promise<void> {
  await page.goto(`/${hash}`);
  const path = hash.replace(/^#\//, '').replace(/\?.*$/, '');
  await expect(page.locator(`main[data-page="${path}"]`).locator('h1, .problem').first()).toBeVisible();
  await expect(page.locator('main .loading')).toHaveCount(0);
}

export function number(text: string | null): number {
  return Number((text ?? '').replace(/[^\d.]/g, ''));
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What WCAG 2.1 A and AA ask, as far as a machine can tell; contrast included. */
export async function accessible(page: Page): Promise<void> {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    interface Axe {
      run(
        context: Document,
        options: object,
      ): Promise<{
        violations: { id: string; help: string; nodes: { html: string; any: { message: string }[] }[] }[];
      }>;
    }
    const { axe } = window as unknown as { axe: Axe };
    const result = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] });
    return result.violations.map(
      (v) =>
        `${v.id}: ${v.help}: ${v.nodes.map((n) => `${n.html.slice(0, 160)} (${n.any[0]?.message ?? ''})`).join(' | ')}`,
    );
  });
  expect(found).toEqual([]);
}

export async function fits(page: Page): Promise<void> {
  const [wide, screen] = await page.evaluate(
    () => [document.documentElement.scrollWidth, window.innerWidth] as const,
  );
  expect(wide).toBeLessThanOrEqual(screen);
}

export const PAGES = [
  '',
  'streams',
  'topics',
  'trace',
  'flows',
  'processes',
  'orchestrations',
  'apis',
  'plugins',
  'tables',
  'sql',
  'dead-letters',
  'connections',
  'connections/this-machine',
  'publish',
  'project',
  'users',
  'audit',
  'api',
  'streams/meter',
  'streams/inbox',
  'flows/meter-alarm',
  'flows/meter-billing',
  'processes/meter-alarm',
  'orchestrations/leave',
  'apis/twice',
  'plugins/loud',
  'tables/meter_readings',
  'tables/machine_now',
];
