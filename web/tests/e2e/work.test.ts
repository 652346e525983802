import { accessible, expect, names, open, test } from './console';

test('SQL runs by keyboard; rows are walked with the arrow keys; a chart is drawn', async ({
  page,
  request,
}) => {
  const busy = async () =>
    (await names(request, 'streams')).find((s) => !s.internal && (s.events ?? 0) > 2)?.name ?? '';
  await expect.poll(busy).not.toBe('');
  const stream = { name: await busy() };
  await open(page, '#/sql');
  const box = page.locator('[data-sql]');
  await expect(box).toBeVisible();
  await page.keyboard.press('/');
  await expect(box).toBeFocused();
  await box.fill(`select topic, time from ${stream.name} limit 50`);
  await page.keyboard.press('Control+Enter');
  await expect(page.locator('[data-answer]')).toContainText(/Rows: [1-9]/);
  const grid = page.getByRole('grid');
  await grid.focus();
  const active = () => grid.getAttribute('aria-activedescendant');
  const start = await active();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowRight');
  const next = await active();
  expect(next).not.toBe(start);
  expect(next).toMatch(/-1-1$/);
  await expect(page.locator(`[id="${next}"]`)).toBeVisible();
  await page.keyboard.press('Control+Home');
  expect(await active()).toMatch(/-0-1$/);

  await box.fill(`select topic, count(*) as n from ${stream.name} group by topic`);
  await page.locator('[data-run]').click();
  await page.locator('[data-chart]').click();
  await expect(page.locator('main canvas')).toBeVisible();
  await accessible(page);
});

test('SQL that is wrong shows where, why and the way out', async ({ page, request, watch }) => {
  watch.expected.push('/api/v1/sql');
  const stream = (await names(request, 'streams')).find((s) => !s.internal)!;
  await open(page, '#/sql');
  await page.locator('[data-sql]').fill(`select valu\nfrom ${stream.name}`);
  await page.locator('[data-run]').click();
  const alert = page.getByRole('alert');
  await expect(alert).toContainText('valu');
  await expect(alert.locator('pre')).toContainText('^^^^');
  await accessible(page);
  // The next good query clears it.
  await page.locator('[data-sql]').fill(`select topic from ${stream.name} limit 1`);
  await page.locator('[data-run]').click();
  await expect(page.locator('[data-answer]')).toBeVisible();
  await expect(alert).toHaveCount(0);
});

test('a published event is acknowledged, and the acknowledgement says what it is worth', async ({
  page,
  watch,
}) => {
  watch.expected.push('/api/v1/events');
  await open(page, '#/publish');
  await page.getByLabel('Topic', { exact: true }).fill('meter/e2e/reading');
  await page.getByLabel('Payload').fill('{ "kw": ');
  await expect(page.getByText('The payload is not JSON')).toBeVisible();
  await expect(page.locator('[data-publish]')).toBeDisabled();
  await page.getByLabel('Payload').fill('{ "kw": 3.2 }');
  await page.getByLabel('Tags', { exact: false }).fill('site=north');
  await page.locator('[data-publish]').click();
  await expect(page.locator('[data-acks]')).toContainText(/On disk \(fsync\)|In memory/);
  await expect(page.locator('[data-acks]')).toContainText(/Acknowledged: 1 in/);
  await page.getByLabel('Topic', { exact: true }).fill('meter/+/reading');
  await page.locator('[data-publish]').click();
  // Refused as a whole, or as the one event it is: in both cases with a reason and a code.
  await expect(
    page
      .locator('main')
      .getByText(/event\.[a-z-]+/)
      .first(),
  ).toBeVisible();
});

test('dead letters are grouped by cause, looked at and driven again', async ({ page, request }, {
  project,
}) => {
  if (project.name !== 'mock') {
    // Not what the stream's schema says: the flow that reads it cannot work on it.
    for (let i = 0; i < 3; i += 1) {
      const answer = await request.post('/api/v1/events', {
        data: { topic: 'meter/e2e/reading', payload: '{"kw": "much"' },
      });
      expect(answer.ok()).toBe(true);
    }
  }
  await open(page, '#/dead-letters');
  const groups = page.locator('[data-groups] .group');
  await expect(groups.first()).toBeVisible();
  const first = groups.first();
  await first.getByRole('button', { name: 'Show events' }).click();
  await expect(first.locator('.letter').first()).toBeVisible();
  await first.locator('.letter .open').first().click();
  await expect(first.locator('.detail pre')).toBeVisible();
  await accessible(page);
  const before = await first.locator('.head').textContent();
  await first.locator('[data-redrive]').click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText(/Re-driven: [1-9]/)).toBeVisible();
  if (project.name === 'mock') await expect(page.locator('[data-groups]')).not.toContainText(before!);
});

test('a table shows its rows', async ({ page, request }) => {
  const filled = async () => (await names(request, 'tables')).find((one) => (one.rows ?? 0) > 0)?.name ?? '';
  await expect.poll(filled).not.toBe('');
  await open(page, `#/tables/${encodeURIComponent(await filled())}`);
  await expect(page.getByRole('grid').getByRole('gridcell').first()).toBeVisible();
});

test('the project and its history can be read', async ({ page }) => {
  await open(page, '#/project');
  await expect(page.getByRole('heading', { name: 'Files' })).toBeVisible();
  const files = page.locator('main nav a');
  await expect(files.first()).toBeVisible();
  await files.filter({ hasText: '.yaml' }).first().click();
  await expect(page.locator('main pre')).not.toBeEmpty();
});

test('the last value of a topic stays on its board', async ({ page, request }) => {
  await open(page, '#/topics');
  await request.post('/api/v1/events', {
    data: { topic: 'meter/e2e-kept/reading', payload: { kw: 4.25 }, retain: true },
  });
  await page.locator('[data-search]').fill('meter/e2e-kept/+');
  const board = page.locator('[data-topics] li');
  await expect(board).toHaveCount(1);
  await expect(board).toContainText('4.25');
});
