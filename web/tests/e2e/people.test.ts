import catalogue from '../../src/i18n/en.json' with { type: 'json' };
import { accessible, expect, fits, mockPort, names, open, PAGES, test } from './console';

test('the language is switched, remembered, and complete', async ({ page }) => {
  await open(page);
  await expect(page.locator('html')).toHaveAttribute('lang', 'en');
  await page.locator('[data-language="zh"]').click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('总览');
  await expect(page.locator('html')).toHaveAttribute('lang', 'zh-CN');
  await page.reload();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('总览');
  for (const path of PAGES) {
    await page.goto(`/#/${path}`);
    await expect(page.locator('main h1')).toBeVisible();
    // A text that is missing would be shown as its key.
    const shown = await page.locator('main').innerText();
    expect(shown.split(/\s+/).filter((text) => text in catalogue)).toEqual([]);
  }
  await page.locator('[data-language="en"]').click();
  await page.goto('/#/');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Overview');
});

test('a Chinese browser is met in Chinese', async ({ browser, baseURL }) => {
  const context = await browser.newContext({ locale: 'zh-CN', baseURL });
  const page = await context.newPage();
  await page.goto('/');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('总览');
  await context.close();
});

test('the theme follows the system until it is chosen', async ({ page }) => {
  await page.emulateMedia({ colorScheme: 'dark' });
  await open(page);
  const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await colour();
  await accessible(page);
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
  for (const path of ['flows', 'sql', 'dead-letters', 'publish']) {
    await page.goto(`/#/${path}`);
    await expect(page.locator('main h1')).toBeVisible();
    await accessible(page);
  }
});

test('a phone of 360 px shows everything without sideways scrolling', async ({ page, request }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await open(page);
  const flow = (await names(request, 'flows'))[0];
  const stream = (await names(request, 'streams'))[0];
  const detail = [flow ? [`flows/${flow.name}`] : [], stream ? [`streams/${stream.name}`] : []].flat();
  for (const path of [...PAGES, ...detail]) {
    await page.goto(`/#/${path}`);
    await expect(page.locator('main h1')).toBeVisible();
    await expect(page.locator('main .loading')).toHaveCount(0);
    await fits(page);
  }
  await page.goto('/#/');
  const more = page.getByRole('button', { name: 'More' });
  await more.click();
  await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Publish' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Publish');
  await expect(page.getByRole('navigation', { name: 'Main' })).toBeHidden();
});

test('the keyboard alone is enough', async ({ page, request }) => {
  await open(page);
  await page.locator('body').press('Tab');
  await expect(page.locator('.skip')).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page.locator('#main')).toBeFocused();
  // What has the focus is seen to have it.
  await page.keyboard.press('Tab');
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement!).outlineWidth);
  expect(outline).toBe('2px');
  const stream = (await names(request, 'streams')).find((s) => !s.internal)!;
  await page.keyboard.press('/');
  await expect(page.locator('[data-jump]')).toBeFocused();
  await page.keyboard.type(stream.name);
  await expect(page.getByRole('option').first()).toBeVisible();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(stream.name);
});

// @mock: needs a node that can be made to drop its connections
test(
  'a lost connection is said, and comes back by itself',
  { tag: '@mock' },
  async ({ page, request, watch }) => {
    watch.expected.push('/api/v1/live', 'ERR_');
    await open(page);
    await request.get('/mock/drop?refuse=2');
    await expect(page.getByText('Reconnecting…')).toBeVisible();
    await expect(page.locator('[data-link="open"]')).toBeVisible();
  },
);

test('what is not there is said in words', async ({ page, watch }) => {
  watch.expected.push('/api/v1/streams/nowhere');
  await open(page, '#/streams/nowhere');
  await expect(page.getByRole('alert')).toContainText('nowhere');
  await expect(page.getByRole('button', { name: 'Try again' })).toBeVisible();
  await page.goto('/#/nowhere');
  await expect(page.getByText('There is no such page')).toBeVisible();
});

// @mock: needs a node with users
test('a node with users asks for a login', { tag: '@mock' }, async ({ page, watch }) => {
  watch.expected.push('/api/v1/session');
  const node = `http://127.0.0.1:${mockPort + 1}`;
  await page.goto(node);
  await expect(page.getByLabel('Password')).toBeVisible();
  await accessible(page);
  await page.getByLabel('User').fill('admin');
  await page.getByLabel('Password').fill('wrong');
  await page.getByRole('button', { name: 'Log in' }).click();
  await expect(page.getByRole('alert')).toContainText('User or password is wrong');
  await page.getByLabel('Password').fill('busbar');
  await page.getByRole('button', { name: 'Log in' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Overview');
  await page.getByRole('button', { name: 'Log out admin' }).click();
  await expect(page.getByLabel('Password')).toBeVisible();
});
