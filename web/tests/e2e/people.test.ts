import { type Page } from '@playwright/test';
import catalogue from '../../src/i18n/en.json' with { type: 'json' };
import { accessible, expect, fits, open, PAGES, test, visit } from './console';
import { RealNode } from './node';

test('the language is switched, remembered, and complete', async ({ page }) => {
  await open(page);
  await expect(page.locator('html')).toHaveAttribute('lang', 'en');
  await page.locator('[data-language="zh"]').click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('总览');
  await expect(page.locator('html')).toHaveAttribute('lang', 'zh-CN');
  await page.reload();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('总览');
  for (const path of PAGES) {
    await visit(page, `#/${path}`);
    // A text that is missing would be shown as its key, a value that is missing as its placeholder.
    const shown = await page.locator('body').innerText();
    // Codes are shown as such: the audit log has some that are keys as well.
    const codes = await page.locator('main code').allInnerTexts();
    const words = shown.split(/\s+/).filter((text) => !codes.includes(text));
    expect(words.filter((text) => text in catalogue)).toEqual([]);
    if (!/^(flows|processes|project|api)/.test(path)) expect(shown).not.toMatch(/\{\w+\}/);
  }
  await page.locator('[data-language="en"]').click();
  await visit(page, '#/');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Overview');
});

test('a Chinese browser is met in Chinese, errors of the node included', async ({ browser, baseURL }) => {
  const context = await browser.newContext({ locale: 'zh-CN', baseURL });
  const page = await context.newPage();
  await page.goto('/');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('总览');
  await visit(page, '#/sql');
  await page.locator('[data-sql]').fill('select metre from meter_readings');
  await page.locator('[data-run]').click();
  await expect(page.getByRole('alert')).toContainText('没有列“metre”');
  await context.close();
});

test('a path that is no page is told to be none, and leads home', async ({ page, watch }) => {
  watch.expected.push('/streems', 'status of 404');
  const answer = await page.goto('/streems/rain');
  expect(answer?.status()).toBe(404);
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('There is no such page');
  await page.getByRole('link', { name: 'To the overview', exact: true }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Overview');
});

test('the theme follows the system until it is chosen', async ({ page }) => {
  await page.emulateMedia({ colorScheme: 'dark' });
  await open(page);
  const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await colour();
  await page.emulateMedia({ colorScheme: 'light' });
  const light = await colour();
  expect(light).not.toBe(dark);
  const button = page.locator('[data-theme-choice]');
  await button.click();
  await expect(button).toHaveAttribute('data-theme-choice', 'light');
  await button.click();
  await expect(button).toHaveAttribute('data-theme-choice', 'dark');
  expect(await colour()).toBe(dark);
  await page.reload();
  await expect(page.locator('main h1')).toBeVisible();
  expect(await colour()).toBe(dark);
});

test('a phone of 360 px shows everything without sideways scrolling', async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await open(page);
  for (const language of ['zh', 'en']) {
    await page
      .locator(`[data-language="${language}"]`)
      .or(page.locator('html:not([lang=zh-CN])'))
      .first()
      .click();
    for (const path of PAGES) {
      await visit(page, `#/${path}`);
      await fits(page);
    }
  }
  await visit(page, '#/');
  await page.getByRole('button', { name: 'More' }).click();
  const menu = page.getByRole('navigation', { name: 'Main' });
  await expect(menu).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(menu).toBeHidden();
  await page.getByRole('button', { name: 'More' }).click();
  await menu.getByRole('link', { name: 'Publish' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Publish');
  await expect(menu).toBeHidden();
});

/** Walks over the page with Tab and says what was wrong with a stop: not seen, or out of order. */
async function walk(page: Page): Promise<{ stops: number; wrong: string[] }> {
  await page.evaluate(() => {
    (document.activeElement as HTMLElement | null)?.blur();
    (window as unknown as { before: Element | null }).before = null;
  });
  const wrong: string[] = [];
  for (let stops = 0; stops < 200; stops += 1) {
    await page.keyboard.press('Tab');
    const found = await page.evaluate(() => {
      const w = window as unknown as { before: Element | null };
      const here = document.activeElement;
      // Behind the last stop there is none, or the first one again.
      if (!here || here === document.body || (w.before && here.matches('.skip'))) return null;
      const style = getComputedStyle(here);
      const name = here.outerHTML.slice(0, 100);
      // A field with a sign in it shows the focus on the box around both.
      const round = getComputedStyle(here.parentElement!);
      const seen = [style, round].some((s) => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2);
      // 4: the other one follows.
      const after = !w.before || (w.before.compareDocumentPosition(here) & 4) !== 0;
      w.before = here;
      return [seen ? '' : `not seen: ${name}`, after ? '' : `out of order: ${name}`].filter(Boolean);
    });
    if (found === null) return { stops, wrong };
    wrong.push(...found);
  }
  return { stops: Infinity, wrong };
}

test('the keyboard alone is enough', async ({ page }) => {
  await open(page);
  await page.locator('body').press('Tab');
  await expect(page.locator('.skip')).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page.locator('#main')).toBeFocused();
  for (const path of ['', 'streams/meter', 'flows/machine-now', 'sql', 'topics', 'project']) {
    await visit(page, `#/${path}`);
    const { stops, wrong } = await walk(page);
    expect(wrong, path).toEqual([]);
    expect(stops, path).toBeGreaterThan(15);
    expect(stops, path).toBeLessThan(200);
  }

  await visit(page, '#/');
  await expect(page.locator('main h1')).toHaveText('Overview');
  await page.keyboard.press('/');
  await expect(page.locator('[data-jump]')).toBeFocused();
  await page.keyboard.type('meter');
  await expect(page.getByRole('option').first()).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByRole('option')).toHaveCount(0);
  await page.keyboard.press('/');
  await page.locator('[data-jump]').fill('machine-now');
  await expect(page.getByRole('option').first()).toBeVisible();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('machine-now');

  // A question is left by Escape, nothing is done, and the focus is where it was.
  const pause = page.getByRole('button', { name: 'Pause' });
  await pause.focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('dialog')).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByRole('dialog')).toHaveCount(0);
  await expect(pause).toBeFocused();
  await expect(page.locator('main h1 + .tag')).toHaveText('running');
});

test('a node that is killed and started again is found again, with all it acknowledged', async ({
  page,
  node,
  watch,
}) => {
  watch.expected.push('ERR_', '/api/v1/', 'status 50', '500', '502');
  await node.mosquitto('meter/e2e-kept/reading', '{"kw":0.75}');
  await open(page, '#/streams/meter');
  const tail = page.locator('[data-tail]');
  await expect(tail.getByText('meter/e2e-kept/reading').first()).toBeVisible();
  await node.kill();
  await expect(page.locator('[data-link="reconnecting"]')).toBeVisible();
  await expect(page.getByRole('banner').getByText('Reconnecting…')).toBeVisible();
  await node.run();
  await expect(page.locator('[data-link="open"]')).toBeVisible();
  await expect(tail.getByText('meter/e2e-kept/reading').first()).toBeVisible();
  await node.mosquitto('meter/e2e-after/reading', '{"kw":0.25}');
  await expect(tail.getByText('meter/e2e-after/reading').first()).toBeVisible();
  await expect(page.locator('main .problem')).toHaveCount(0);
});

test('what is not there is said in words', async ({ page, watch }) => {
  watch.expected.push('/api/v1/streams/nowhere');
  await open(page, '#/streams/nowhere');
  await expect(page.getByRole('alert')).toContainText('nowhere');
  // It would not be there the second time either.
  await expect(page.getByRole('button', { name: 'Try again' })).toHaveCount(0);
  await visit(page, '#/nowhere');
  await expect(page.getByText('There is no such page').last()).toBeVisible();
});

test('a node with users asks for a login and shows each what they may do', async ({ page, watch }) => {
  watch.expected.push('/api/v1/', 'ERR_INCOMPLETE_CHUNKED_ENCODING');
  const guarded = await RealNode.start('host-watch');
  try {
    await page.goto(`${guarded.url}/#/flows/machine-now`);
    await expect(page.getByRole('button', { name: 'Pause' })).toBeVisible();
    const add = async (user: object, basic?: string) => {
      const answer = await fetch(`http://127.0.0.1:${guarded.http}/api/v1/users`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...(basic ? { authorization: basic } : {}) },
        body: JSON.stringify(user),
      });
      expect(answer.status).toBe(201);
    };
    await add({ name: 'ann', password: 'a-good-password', role: 'admin' });
    const basic = `Basic ${Buffer.from('ann:a-good-password').toString('base64')}`;
    await add({ name: 'eve', password: 'another-password', role: 'viewer' }, basic);

    // Who was in without a login is asked for one as soon as there are users.
    await expect(page.getByLabel('Password')).toBeVisible();
    await accessible(page);
    const enter = async (user: string, password: string) => {
      await page.getByLabel('User').fill(user);
      await page.getByLabel('Password').fill(password);
      await page.getByRole('button', { name: 'Log in' }).click();
    };
    await enter('ann', 'a-wrong-password');
    await expect(page.getByRole('alert')).toContainText('The login was refused');
    await enter('ann', 'a-good-password');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('machine-now');
    await expect(page.getByRole('button', { name: 'Pause' })).toBeVisible();
    await expect(page.locator('[data-link="open"]')).toBeVisible();
    await page.reload();
    await page.getByRole('button', { name: 'Log out ann' }).click();
    await expect(page.getByLabel('Password')).toBeVisible();
    await enter('eve', 'another-password');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('machine-now');
    await expect(page.locator('[data-graph] [data-node]').first()).toBeVisible();
    // What a viewer may not do is dimmed, and says why.
    const pause = page.getByRole('button', { name: 'Pause' });
    await expect(pause).toHaveAttribute('aria-disabled', 'true');
    await expect(pause).toHaveAccessibleDescription(/Your role \(viewer\) does not allow this/);
    // An element that is aria-disabled can still be pressed.
    await pause.click({ force: true });
    await expect(page.getByRole('dialog')).toHaveCount(0);
    await expect(page.getByText('it needs the role operator').last()).toBeVisible();
    await page.goto(`${guarded.url}/#/publish`);
    await expect(page.locator('[data-publish]')).toHaveAttribute('aria-disabled', 'true');
    await page.goto(`${guarded.url}/#/audit`);
    await expect(page.getByText('The audit log is for admins')).toBeVisible();
    await page.getByRole('button', { name: 'Log out eve' }).click();
    await enter('ann', 'a-good-password');

    // An admin keeps the users: added with the least rights, restricted, removed; and the audit log has it.
    await page.goto(`${guarded.url}/#/users`);
    await page.locator('[data-add-user]').click();
    await page.getByLabel('Name', { exact: true }).fill('m1');
    await page.getByLabel(/^New password, at least/).fill('a-device-password');
    await expect(page.getByLabel('Role')).toHaveValue('viewer');
    await page.getByLabel('Role').selectOption('operator');
    await page.getByLabel('May publish to').fill('meter/m1/#');
    await accessible(page);
    await page.locator('[data-confirm]').click();
    const m1 = page.locator('[data-users] tr', { hasText: 'm1' });
    await expect(m1).toContainText('meter/m1/#');
    await m1.getByRole('button', { name: 'Reset password' }).click();
    await page.getByLabel(/^New password, at least/).fill('another-device-password');
    await page.locator('[data-confirm]').click();
    await expect(page.getByText('Password of m1 changed')).toBeVisible();
    await page.locator('[data-add-token]').click();
    await page.getByLabel('What it is for').fill('reports');
    await page.getByLabel('Role').selectOption('viewer');
    await page.locator('[data-confirm]').click();
    await expect(page.locator('[data-token]')).not.toBeEmpty();
    await m1.getByRole('button', { name: 'Remove' }).click();
    await page.locator('[data-confirm]').click();
    await expect(m1).toHaveCount(0);
    await page.goto(`${guarded.url}/#/audit`);
    await expect(page.locator('[data-audit] tr', { hasText: 'user.remove' })).toContainText('ann');
  } finally {
    await page.goto('about:blank');
    await guarded.stop();
  }
});

test('states that a sound node does not have are told in words', async ({ page, node, watch }) => {
  watch.expected.push('/api/v1/');
  // The node's own answers, changed where a broken disk or a fault of ours would change them.
  const api = `http://127.0.0.1:${node.http}/api/v1`;
  await page.route('**/api/v1/streams/meter', async (route) => {
    const answer = (await (await fetch(`${api}/streams/meter`)).json()) as Record<string, unknown>;
    answer.durability = 'memory';
    answer.damage = [{ partition: 0, file: 'p0/000042.log', offset: 4096, bytes: 512, why: 'checksum' }];
    await route.fulfill({ json: answer });
  });
  await page.route('**/api/v1/live', async (route) => {
    const overview = (await (await fetch(`${api}/overview`)).json()) as {
      durability: string;
      streams: { name: string; damaged: number; topics?: string[]; events?: number }[];
    };
    overview.durability = 'memory';
    for (const one of overview.streams) if (one.name === 'meter') one.damaged = 2;
    // Many streams, all smaller than those that are there.
    for (let i = 0; i < 60; i += 1)
      overview.streams.push({ name: `s${i}`, damaged: 0, topics: [], events: -1 });
    const flow = (await (await fetch(`${api}/flows/machine-now`)).json()) as Record<string, unknown>;
    Object.assign(flow, { missed: 12, conservation: { in: 10, out: 7, balanced: false } });
    await route.fulfill({
      contentType: 'text/event-stream',
      body: `retry: 60000\n\nevent: live\ndata: ${JSON.stringify({ overview, flows: [flow] })}\n\n`,
    });
  });
  await visit(page, '#/');
  await expect(page.getByText('In memory')).toBeVisible();
  await expect(page.getByRole('list', { name: 'What needs attention' })).toContainText('2 damaged');
  await expect(page.getByRole('region', { name: 'The bus' }).locator('li')).toHaveCount(24);
  await expect(page.getByRole('link', { name: /^\d+ more streams$/ })).toBeVisible();
  await visit(page, '#/streams/meter');
  await expect(page.getByRole('alert')).toContainText('p0/000042.log is damaged at byte 4,096 (512 B)');
  await visit(page, '#/flows/machine-now');
  await expect(page.getByText('3 events are not accounted for')).toBeVisible();
  await expect(page.getByText('12 events were removed by retention')).toBeVisible();
});
