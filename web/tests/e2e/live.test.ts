import { accessible, expect, names, number, open, PAGES, test } from './console';

test('every page renders, is accessible, and the browser has nothing to say against it', async ({
  page,
  request,
}) => {
  test.slow();
  await open(page);
  const one = async (kind: 'streams' | 'flows' | 'tables') => (await names(request, kind))[0]?.name;
  const detail = [
    ['streams', await one('streams')],
    ['flows', await one('flows')],
    ['tables', await one('tables')],
  ].flatMap(([kind, name]) => (name ? [`${kind}/${encodeURIComponent(name)}`] : []));
  for (const path of [...PAGES, ...detail]) {
    await page.goto(`/#/${path}`);
    await expect(page.locator('main h1')).toBeVisible();
    await expect(page.locator('main .loading')).toHaveCount(0);
    await expect(page.locator('main .problem')).toHaveCount(0);
    await accessible(page);
  }
});

test('the overview is alive', async ({ page }) => {
  await open(page);
  const rate = page.locator('[data-live="in"]');
  await expect(rate).toHaveText(/\d.*\/s/);
  await expect(page.getByText('An acknowledgement means:')).toBeVisible();
  await expect(page.locator('.tiles').getByText('Stored')).toBeVisible();
  // The chart is drawn, and drawn again: its newest point moves on.
  await expect(page.locator('main canvas')).toBeVisible();
  const spark = page.locator('main .tiles polyline').first();
  const before = await spark.getAttribute('points');
  await expect.poll(() => spark.getAttribute('points')).not.toBe(before);
});

test('a stream is followed, paused and filtered', async ({ page, request }) => {
  const streams = (await names(request, 'streams')).filter((s) => !s.internal && (s.topics?.length ?? 0) > 0);
  await open(page);
  const publish = (topic: string, payload: unknown) =>
    request.post('/api/v1/events', {
      data: { topic, payload },
      headers: { origin: new URL(page.url()).origin },
    });
  const stream = streams.find((s) => s.topics!.some((t) => t.startsWith('meter/'))) ?? streams[0]!;
  const topic = (id: string) => stream.topics![0]!.replace('+', id).replace('#', id);
  await page.goto(`/#/streams/${encodeURIComponent(stream.name)}`);
  const tail = page.locator('[data-tail]');
  await expect(tail).toBeVisible();
  // Others may publish here too: only the test's own events are looked at.
  await page.getByLabel('Filter by text').fill('e2e-');
  // The tail shows what is published from now on: publish until the subscription is there.
  await expect
    .poll(async () => {
      await publish(topic('e2e-one'), { kw: 1.5 });
      return tail.getByText(topic('e2e-one')).count();
    })
    .toBeGreaterThan(0);

  // The page renews what it knows of the stream; the tail goes on through that.
  await page.waitForTimeout(3000);
  await expect(tail.getByText(topic('e2e-one')).first()).toBeVisible();

  // What came while paused is counted, not shown; then shown.
  await page.locator('[data-pause]').click();
  await publish(topic('e2e-two'), { kw: 2.5 });
  await expect(page.getByText(/Paused · [1-9][\d,]* came since/)).toBeVisible();
  await expect(tail.getByText(topic('e2e-two'))).toHaveCount(0);
  await page.locator('[data-pause]').click();
  await expect(tail.getByText(topic('e2e-two')).first()).toBeVisible();

  // Words filter what is here.
  await page.getByLabel('Filter by text').fill('e2e-two');
  await expect(tail.getByText(topic('e2e-one'))).toHaveCount(0);
  await expect(tail.getByText(topic('e2e-two')).first()).toBeVisible();
  await tail.getByText(topic('e2e-two')).first().click();
  await expect(page.locator('.detail pre')).toContainText('2.5');

  // A topic filter is the node's work.
  await page.getByLabel('Filter by text').fill('');
  await page.getByLabel(/Topic filter/).fill(topic('e2e-three'));
  await page.getByRole('button', { name: 'Apply' }).click();
  await expect
    .poll(async () => {
      await publish(topic('e2e-one'), { kw: 1 });
      await publish(topic('e2e-three'), { kw: 3 });
      return tail.getByText(topic('e2e-three')).count();
    })
    .toBeGreaterThan(0);
  await expect(tail.getByText(topic('e2e-one'))).toHaveCount(0);
});

test('the counters of a flow move on its graph', async ({ page, request }) => {
  const flows = await names(request, 'flows');
  const flow = flows.find((f) => f.rate > 0) ?? flows[0]!;
  await open(page, `#/flows/${encodeURIComponent(flow.name)}`);
  const node = page.locator('[data-graph] [data-node]').first();
  await expect(node).toBeVisible();
  expect(await page.locator('[data-graph] .svelte-flow__edge').count()).toBeGreaterThan(0);
  const total = page.locator('[data-live="flow-in"]');
  const before = number(await total.textContent());
  await expect.poll(async () => number(await total.textContent())).toBeGreaterThan(before);
  await expect(page.getByText('Every event is accounted for')).toBeVisible();
  // A step chosen in the picture is the one chosen in the table.
  await node.click();
  await expect(page.locator('tr.chosen')).toHaveCount(1);
  // Each step is in words and numbers too.
  expect(await page.locator('[data-step]').count()).toBe(
    await page.locator('[data-graph] [data-node]').count(),
  );
});

// @mock: needs a flow that is stuck
test('a flow that is stuck is red, and says why in words', { tag: '@mock' }, async ({ page }) => {
  await open(page, '#/flows/meter-check');
  await expect(page.getByRole('alert')).toContainText('refused the connection');
  const bad = page.locator('[data-node].failed');
  await expect(bad).toContainText('refused the connection');
  await expect(bad.locator('svg').first()).toBeVisible();
  await expect(page.getByText(/[\d.]+ k waiting/).first()).toBeVisible();
});

test('a flow is paused and resumed', async ({ page, request }) => {
  const flow = (await names(request, 'flows'))[0]!;
  await open(page, `#/flows/${encodeURIComponent(flow.name)}`);
  await page.getByRole('button', { name: 'Pause' }).click();
  await expect(page.getByRole('dialog')).toContainText('nothing is lost');
  await page.locator('[data-confirm]').click();
  await expect(page.locator('main h1 + .tag')).toHaveText('paused');
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.locator('[data-confirm]').click();
  await expect(page.locator('main h1 + .tag')).toHaveText('running');
});

// @mock: needs a flow with several versions
test('versions are compared and rolled back', { tag: '@mock' }, async ({ page }) => {
  await open(page, '#/flows/cpu-alarm');
  await page.getByRole('button', { name: 'Compare' }).last().click();
  await expect(page.locator('.diff .removed').first()).toContainText('value >= 95');
  await expect(page.locator('.diff .added').first()).toContainText('value >= 80');
  await page.getByRole('button', { name: 'Roll back' }).last().click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText('cpu-alarm runs as in version 1 again')).toBeVisible();
});
