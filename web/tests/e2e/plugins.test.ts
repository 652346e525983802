import type { Page } from '@playwright/test';
import { accessible, expect, fits, number, open, test } from './console';
import { loudScript } from './node';

/** Puts a text in the place of what the editor has. */
async function write(page: Page, text: string): Promise<void> {
  const editor = page.locator('[data-code] .cm-content');
  await editor.click();
  await page.keyboard.press('Control+a');
  await page.keyboard.insertText(text);
}

test('a plug-in is edited, tried beside what runs, refused, deployed, compared and rolled back', async ({
  page,
  node,
  watch,
}) => {
  watch.expected.push('/api/v1/plugins/loud');
  await node.lines('horn/a', ['{"db":3}', '{"db":5}']);
  await open(page, '#/plugins');
  const row = page.getByRole('row').filter({ hasText: 'loud' });
  await expect(row).toContainText('running');
  await row.getByRole('link', { name: 'loud' }).first().click();
  const given = async (): Promise<number> => number(await page.locator('[data-given]').textContent());
  await expect.poll(given).toBeGreaterThanOrEqual(2);
  await expect(page.locator('[data-log]').first()).toContainText('db 10');
  // The program has colours.
  await page.getByRole('button', { name: /main\.js/ }).click();
  await expect(page.locator('[data-code="main.js"] .cm-line span').first()).toBeVisible();

  // What is edited is tried on the events that are there; what runs goes on as it was.
  await write(page, loudScript('event.payload.db > 2 ? event.payload.db + 3.5 : 4'));
  await expect(page.locator('[data-changed]')).toHaveText('1 file changed');
  await page.locator('[data-stream]').selectOption('horn');
  await page.locator('[data-try]').click();
  // Other tests publish on this stream, too.
  const trial = page.locator('[data-trial] li').filter({ hasText: '"db": 3' });
  await expect(trial.first()).toContainText('"db": 6.5');
  await accessible(page);

  // A program that fails is shown with its file and line, at the trial as at the deployment.
  await write(page, 'export default function (event) {\n  return event.;\n}\n');
  await page.locator('[data-try]').click();
  await expect(page.locator('[data-fault]')).toContainText('plugins/loud/main.js:2');
  await page.locator('[data-deploy]').click();
  await expect(page.locator('[data-fault]').first()).toContainText('plugins/loud/main.js:2');
  // So is one that does not pass its tests.
  await write(page, loudScript('event.payload.db * 3'));
  await page.locator('[data-deploy]').click();
  await expect(page.locator('[data-fault]').first()).toContainText('plugins/loud/plugin.yaml');
  // The version that ran runs on.
  await expect(page.getByRole('main')).toContainText('running');

  await write(page, loudScript('event.payload.db + event.payload.db'));
  await page.locator('[data-deploy]').click();
  await expect(page.getByText('loud runs in its new version')).toBeVisible();
  await expect(page.locator('[data-changed]')).toHaveCount(0);
  const versions = page.locator('[data-versions] li');
  await expect(versions.first()).toContainText('main.js');
  await versions.nth(1).getByRole('button', { name: 'Compare' }).click();
  await expect(page.getByRole('region', { name: /Differences.*main\.js/ })).toContainText(
    'event.payload.db + event.payload.db',
  );
  await accessible(page);
  await versions.nth(1).getByRole('button', { name: 'Roll back' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Roll back' }).click();
  await expect(page.getByText(/loud runs as in version \d+ again/)).toBeVisible();
  await expect(page.locator('[data-code="main.js"]')).toContainText('event.payload.db * 2');
});

for (const [language, scheme] of [
  ['en', 'light'],
  ['zh', 'dark'],
] as const) {
  test(`the page of a plug-in in ${language}, ${scheme}, on a desk and a phone`, async ({ page, node }) => {
    await node.lines('horn/b', ['{"db":1}']);
    await page.emulateMedia({ colorScheme: scheme });
    await page.addInitScript((l) => localStorage.setItem('busbar.language', l), language);
    for (const width of [1360, 390]) {
      await page.setViewportSize({ width, height: 860 });
      await open(page, '#/plugins/loud');
      await page.getByRole('button', { name: /main\.js/ }).click();
      await expect(page.locator('[data-code="main.js"] .cm-line').first()).toBeVisible();
      await page.locator('[data-stream]').selectOption('horn');
      await page.locator('[data-try]').click();
      await expect(page.locator('[data-trial] li').first()).toBeVisible();
      await fits(page);
      await accessible(page);
      if (process.env.SHOTS)
        await page.screenshot({
          path: `${process.env.SHOTS}/plugin-${language}-${width}.png`,
          fullPage: true,
        });
    }
    await open(page, '#/plugins');
    await expect(page.getByRole('link', { name: 'loud' }).first()).toBeVisible();
    await fits(page);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/plugins-${language}.png` });
  });
}
