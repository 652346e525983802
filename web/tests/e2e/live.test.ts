import { accessible, expect, number, open, PAGES, test, visit } from './console';

test('every page renders, is accessible, and the browser has nothing to say against it', async ({
  page,
  node,
}) => {
  await node.mosquitto('meter/m1/reading', '{"kw":1.2}');
  await node.mosquitto('meter/m1/reading', '{"kw":', '-r');
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    await open(page);
    for (const path of PAGES) {
      await visit(page, `#/${path}`);
      if (path !== 'flows/meter-billing') await expect(page.locator('main .problem')).toHaveCount(0);
      await accessible(page);
    }
  }
});

test('the overview is alive, and its lines have a past', async ({ page }) => {
  await open(page);
  await expect(page.locator('[data-live="in"]')).toHaveText(/\d.*\/s/);
  await expect(page.getByText('An acknowledgement means:')).toBeVisible();
  await expect(page.locator('.tiles').getByText('Stored')).toBeVisible();
  // The chart is drawn, and drawn again: its newest point moves on.
  await expect(page.locator('main canvas')).toBeVisible();
  const spark = page.locator('main .tiles polyline').first();
  const before = await spark.getAttribute('points');
  await expect.poll(() => spark.getAttribute('points')).not.toBe(before);
  // The line of a stream begins with what the node remembers, not with the moment of looking.
  const points = (name: string) =>
    page.getByRole('img', { name: `Rate of ${name} over the last minute` }).locator('polyline');
  const long = async () => (await points('cpu').getAttribute('points'))?.split(' ').length ?? 0;
  await expect.poll(long).toBeGreaterThan(3);
  const had = await long();
  await page.reload();
  await expect.poll(long).toBeGreaterThanOrEqual(had);
  // A source is as fast as what it brings.
  await visit(page, '#/connections');
  const row = page.locator('tr', { hasText: 'this-machine' });
  await expect(row.locator('td[data-name="Rate"]')).toHaveText(/^[1-9][\d.]*\/s$/);
});

test('a stream is followed live, paused and filtered', async ({ page, node }) => {
  await node.mosquitto('meter/e2e-before/reading', '{"kw":0.5}');
  await open(page, '#/streams/meter');
  const tail = page.locator('[data-tail]');
  // What was there before is there at once.
  await expect(tail.getByText('meter/e2e-before/reading').first()).toBeVisible();

  for (let i = 0; i < 5; i += 1) {
    const topic = `meter/e2e-${i}/reading`;
    await node.mosquitto(topic, `{"kw":${i}}`);
    await expect(tail.getByText(topic).first()).toBeVisible();
  }

  // The page renews what it knows of the stream; the tail goes on through that.
  await page.getByLabel('Filter by text').fill('e2e-');
  const renewed = () => page.waitForResponse((r) => r.url().endsWith('/api/v1/streams/meter'));
  await renewed();
  await renewed();
  await expect(tail.getByText('meter/e2e-0/reading').first()).toBeVisible();

  // What came while paused is counted, not shown; then shown.
  await page.locator('[data-pause]').click();
  await node.mosquitto('meter/e2e-two/reading', '{"kw":2.5}');
  await expect(page.getByText(/Paused · [1-9][\d,]* came since/)).toBeVisible();
  await expect(tail.getByText('meter/e2e-two/reading')).toHaveCount(0);
  await page.locator('[data-pause]').click();
  await expect(tail.getByText('meter/e2e-two/reading').first()).toBeVisible();

  // A text is looked for in what is there already and in what comes; the node does it.
  await page.getByLabel('Filter by text').fill('e2e-two');
  await expect(tail.getByText('meter/e2e-0/reading')).toHaveCount(0);
  await tail.getByText('meter/e2e-two/reading').first().click();
  await expect(page.locator('.detail pre')).toContainText('2.5');

  // A topic filter is the node's work.
  await page.getByLabel('Filter by text').fill('');
  await page.getByLabel(/Topic filter/).fill('meter/e2e-three/reading');
  await page.getByRole('button', { name: 'Apply' }).click();
  await expect(tail.getByText('meter/e2e-two/reading')).toHaveCount(0);
  await node.mosquitto('meter/e2e-one/reading', '{"kw":1}');
  await node.mosquitto('meter/e2e-three/reading', '{"kw":3}');
  await expect(tail.getByText('meter/e2e-three/reading')).toHaveCount(1);
  await expect(tail.getByText('meter/e2e-one/reading')).toHaveCount(0);
});

test('ten thousand events a second: the page answers, shows a sample and counts them all', async ({
  page,
  node,
}) => {
  const BATCH = 2500;
  const BATCHES = 20;
  const EVERY_MS = 250;
  await node.lines('share/slow', ['{"n":0}']);
  await open(page, '#/streams/share');
  await expect(page.locator('[data-tail]').getByText('share/slow')).toBeVisible();
  const lines = Array.from({ length: BATCH }, (_, n) =>
    JSON.stringify({ n, text: 'as long as a reading is' }),
  );
  const publishing = (async () => {
    for (let i = 0; i < BATCHES; i += 1) {
      const pace = new Promise((done) => setTimeout(done, EVERY_MS));
      await Promise.all([node.lines('share/fast', lines), pace]);
    }
  })();
  const got = async () => Number(await page.locator('[data-received]').getAttribute('data-received'));
  await expect.poll(got).toBeGreaterThan(5 * BATCH);
  // In the middle of it the page does what it is told, and has few rows in it.
  await page.locator('[data-pause]').click();
  await expect(page.getByText(/Paused · [\d,. k]+ came since/)).toBeVisible();
  await page.locator('[data-pause]').click();
  expect(await page.locator('[data-tail] li').count()).toBeLessThan(60);
  await publishing;
  // Every event is counted; a sample of them is shown, and the page says so.
  await expect.poll(got).toBe(BATCH * BATCHES + 1);
  await expect(page.getByText('a sample of the newest ones is shown')).toBeVisible();
  // 2,000 rows of 32 px at most.
  const height = await page.locator('[data-tail] ul').evaluate((list) => list.clientHeight);
  expect(height).toBeLessThanOrEqual(64_000);
  await expect(page.locator('[data-rate="0"]')).toBeVisible();
});

test('a stream is searched by text, key, tag and time, with progress, and the search can be stopped', async ({
  page,
  node,
}) => {
  const hay = Array.from({ length: 3000 }, (_, n) =>
    JSON.stringify({
      topic: `share/${n % 10}`,
      key: `k${n % 3}`,
      tags: { site: n % 2 ? 'north' : 'south' },
      time: `2026-01-01T00:${String(Math.floor(n / 60)).padStart(2, '0')}:${String(n % 60).padStart(2, '0')}Z`,
      payload: { n, id: '#', word: n % 1000 === 7 ? 'E2E-Needle' : 'hay' },
      // A number that JavaScript does not have.
    }).replace('"#"', '9007199254740993'),
  );
  await node.events(hay);
  await open(page, '#/streams/share');
  const tail = page.locator('[data-tail]');
  const done = page.locator('[data-progress="done"]');
  await page.locator('[data-search-mode]').click();
  await page.getByLabel('Filter by text').fill('e2e-needle');
  await page.locator('[data-search-run]').click();
  await expect(done).toContainText(/^\s*3 found · [\d,]+ events searched \(100%\)/);
  // Newest first, and numbers keep their digits.
  await expect(tail.locator('.event').first()).toContainText('"n":2007');
  await tail.locator('.event').first().click();
  await expect(page.locator('.detail pre')).toContainText('9007199254740993');
  await page.locator('[data-more]').click();
  await page.getByLabel('Order').selectOption('oldest');
  await page.getByLabel('Key').fill('k1');
  await page.getByLabel('Tag, or tag=value').fill('site=north');
  await page.locator('[data-search-run]').click();
  await expect(done).toContainText(/^\s*1 found/);
  await expect(tail.locator('.event').first()).toContainText('"n":7');
  // Times are those of the switch in the header.
  await page.locator('[data-times]').click();
  await expect(page.locator('[data-times="utc"]')).toBeVisible();
  await page.getByLabel('Filter by text').fill('');
  await page.getByLabel('Key').fill('');
  await page.getByLabel('Tag, or tag=value').fill('');
  await page.getByLabel('From (UTC)').fill('2026-01-01T00:10:00');
  await page.getByLabel('To, exclusive (UTC)').fill('2026-01-01T00:10:05');
  await page.locator('[data-search-run]').click();
  await expect(done).toContainText(/^\s*5 found/);
  await expect(tail.locator('.time').first()).toHaveText('2026-01-01 00:10:00 UTC');
  // A search waits after five hundred rows, and goes on when it is told to.
  await page.getByLabel('From (UTC)').fill('');
  await page.getByLabel('To, exclusive (UTC)').fill('');
  await page.locator('[data-search-run]').click();
  const paused = page.locator('[data-progress="paused"]');
  await expect(paused).toContainText(/^\s*500 found/);
  await page.locator('[data-search-more]').click();
  await expect(paused).toContainText(/^\s*1,000 found/);
  // The tail can start in the past.
  await page.getByRole('button', { name: 'Live', exact: true }).click();
  await page.getByLabel('Start').selectOption('offset');
  await page.getByLabel('Offset in each partition').fill('0');
  await page.getByLabel(/Topic filter/).fill('share/3');
  await page.getByRole('button', { name: 'Apply' }).click();
  await expect(page.locator('[data-received="300"]')).toBeVisible();
  await page.locator('[data-times]').click();
  await expect(tail.locator('.time').first()).toHaveText(/ ago$/);
});

test('the counters of a flow move on its graph', async ({ page }) => {
  await open(page, '#/flows/machine-now');
  const step = page.locator('[data-graph] [data-node]').first();
  await expect(step).toBeVisible();
  expect(await page.locator('[data-graph] .svelte-flow__edge').count()).toBe(2);
  const total = page.locator('[data-live="flow-in"]');
  const before = number(await total.textContent());
  await expect.poll(async () => number(await total.textContent())).toBeGreaterThan(before);
  await expect(step.locator('.rate')).toHaveText(/^[\d.]+\/s$/);
  await expect(page.getByText('Every event is accounted for')).toBeVisible();
  // How far it is in event time stands beside how much waits: as an age, and as a moment with its zone.
  const age = '(just now|\\d+ (s|min) ago)';
  await expect(page.locator('[data-live="lag"]')).toHaveText(/^\d+$/);
  await expect(page.locator('[data-live="watermark"]')).toHaveText(
    new RegExp(`^\\s*${age}\\s+\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d UTC\\+8\\s*$`),
  );
  await expect(
    page
      .locator('[data-graph]')
      .getByText(new RegExp(`^up to ${age}$`))
      .first(),
  ).toBeVisible();
  await expect(page.locator('[data-step="from:cpu"] td[data-name="Event time reached"]')).toHaveText(
    new RegExp(`^${age}$`),
  );
  // A step chosen in the picture is the one chosen in the table.
  await step.click();
  await expect(page.locator('tr.chosen')).toHaveCount(1);
  // Each step is in words and numbers too.
  await expect(page.locator('[data-step]')).toHaveCount(
    await page.locator('[data-graph] [data-node]').count(),
  );
});

test('how a flow runs: state and event time at each step, the partition that holds it back, and what came late', async ({
  page,
  node,
}) => {
  const now = Date.now();
  const reading = (seconds: number) =>
    JSON.stringify({ site: 'north', at: new Date(now + seconds * 1000).toISOString(), kw: 1 });
  // The other topics fill both partitions; the last event comes after the window that it belongs to has closed.
  for (const topic of 'bcdefgh') await node.mosquitto(`power/${topic}`, reading(0));
  for (const seconds of [0, 120, 5]) await node.mosquitto('power/a', reading(seconds));
  await open(page, '#/flows/power-windows');
  const plan = page.locator('[data-plan]');
  await expect(plan.locator('[data-stage]')).toHaveCount(2);
  await expect(plan.locator('[data-stage="0"]')).toContainText('reads power, 2 partitions');
  await expect(plan.locator('[data-operator="where-0"]')).toContainText('keeps nothing');
  const tens = plan.locator('[data-operator="tens"]').last();
  await expect(tens).toContainText('after regrouping');
  await expect(tens.locator('td[data-name="State in memory"]')).toHaveText(/\d[\d.,]* (B|kB|KB|KiB|MB)/);
  await expect(page.locator('[data-promises]')).toContainText('exactly once');

  const cursors = page.locator('[data-partitions] [data-task^="0 power "]');
  await expect(cursors).toHaveCount(2);
  await expect(page.locator('[data-holds-back]')).toHaveCount(1);
  const ahead = cursors.filter({ hasText: /ahead/ });
  await expect(ahead).toHaveCount(1);
  // The partition whose time is furthest on does not hold anything back.
  await expect(ahead.locator('[data-holds-back]')).toHaveCount(0);
  await accessible(page);

  const late = page.locator('[data-late]');
  await expect(late).toHaveText('1');
  await late.click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('power-windows.late');
});

test('a flow whose output is away is red, says why, and catches up by itself', async ({ page, node }) => {
  for (let i = 0; i < 3; i += 1) await node.mosquitto(`meter/e2e-${i}/reading`, '{"kw":1}');
  // A flow of its own, whose attempts are still close together.
  node.write('flows/meter-invoice.yaml', node.read('flows/meter-billing.yaml'));
  await open(page);
  // The overview says it without being asked, in words.
  const troubles = page.getByRole('list', { name: 'What needs attention' });
  await expect(troubles).toContainText('meter-invoice');
  await expect(troubles).toContainText(/readings does not answer/);
  await troubles.getByRole('link', { name: 'meter-invoice' }).click();
  await expect(page.getByRole('alert')).toContainText('does not answer');
  await expect(page.locator('main h1 + .tag')).toHaveText('retrying');
  const bad = page.locator('[data-node].failed');
  await expect(bad).toContainText('does not answer');
  await expect(bad.locator('svg').first()).toBeVisible();
  await expect(page.getByText(/[\d.]+( k)? waiting/).first()).toBeVisible();
  await expect(page.locator('[data-step]').last()).toContainText('does not answer');

  const erp = await node.openErp();
  await expect(page.locator('main h1 + .tag')).toHaveText('running');
  await expect(page.getByRole('alert')).toHaveCount(0);
  await expect(bad).toHaveCount(0);
  await expect.poll(() => erp.rows).toBeGreaterThanOrEqual(3);
  await expect(page.getByText(/[\d.]+( k)? waiting/)).toHaveCount(0);
});

test('a flow is paused and resumed', async ({ page }) => {
  await open(page, '#/flows/machine-now');
  await page.getByRole('button', { name: 'Pause' }).click();
  await expect(page.getByRole('dialog')).toContainText('nothing is lost');
  await page.locator('[data-confirm]').click();
  await expect(page.locator('main h1 + .tag')).toHaveText('paused');
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.locator('[data-confirm]').click();
  await expect(page.locator('main h1 + .tag')).toHaveText('running');
});

test('a flow reads its stream again, from a time that must be given', async ({ page }) => {
  await open(page, '#/flows/disks');
  const total = async () => number(await page.locator('[data-live="flow-in"]').textContent());
  await expect.poll(total).toBeGreaterThan(5);
  const before = await total();
  await page.getByRole('button', { name: 'Replay' }).click();
  await page.getByText(/^From a time \(UTC\+8\)$/).click();
  await expect(page.locator('[data-confirm]')).toBeDisabled();
  await page.getByLabel('From a time', { exact: true }).fill('2099-01-01T00:00:00');
  await expect(page.locator('[data-confirm]')).toBeEnabled();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText('disks is replaying')).toBeVisible();
  // Its counters go on, and there is nothing yet from that time on.
  expect(await total()).toBeGreaterThanOrEqual(before);
  await expect(page.getByText('Every event is accounted for')).toBeVisible();
  await expect(page.locator('main h1 + .tag')).toHaveText('running');
});

test('a flow that is edited while it runs is shown in its new version, compared and rolled back', async ({
  page,
  node,
}) => {
  const FILE = 'flows/meter-alarm.yaml';
  const first = node.read(FILE);
  const changed = first.replace('kw >= 3', 'kw >= 2').replace('kw: 0.4', 'kw: 0.5');
  expect(changed).not.toBe(first);
  await open(page, '#/flows/meter-alarm');
  await expect(page.locator('[data-graph]')).toContainText('kw >= 3');
  const version = page.locator('main h1 ~ .tag').nth(1);
  const was = number(await version.textContent());
  const out = page.locator('[data-node="to:0"] [data-count="in"]');

  node.write(FILE, changed);
  await expect(page.locator('[data-graph]')).toContainText('kw >= 2');
  await expect.poll(async () => number(await version.textContent())).toBeGreaterThan(was);
  const now = number(await version.textContent());
  // The counters are those of a moment ago: what other tests have published may still be added to them.
  const alarms = async () => number(await out.textContent());
  let before = await alarms();
  await node.mosquitto('meter/e2e/reading', '{"kw":2.5}');
  await expect.poll(alarms).toBeGreaterThan(before);

  // Files with errors are refused, the console says why, and the old version runs on.
  node.write(FILE, changed.replace('kw >= 2', 'kww >= 2'));
  await expect.poll(() => node.output()).toMatch(/kww >= 2[^]*━━━/);
  await expect(version).toHaveText(`Version ${now}`);
  await visit(page, '#/');
  await expect(page.locator('[data-refused]')).toContainText('1 error');
  await visit(page, '#/project');
  await expect(page.locator('[data-refused]')).toContainText('kww');
  await expect(page.locator('[data-refused] a')).toHaveText(/^flows\/meter-alarm\.yaml:\d+:\d+$/);
  await visit(page, '#/flows/meter-alarm');
  await expect.poll(alarms).toBeGreaterThan(0);
  before = await alarms();
  await node.mosquitto('meter/e2e/reading', '{"kw":2.5}');
  await expect.poll(alarms).toBeGreaterThan(before);
  node.write(FILE, changed);

  await page.getByRole('button', { name: 'Compare' }).first().click();
  await expect(page.locator('.diff .removed').first()).toContainText('kw >= 3');
  await expect(page.locator('.diff .added').first()).toContainText('kw >= 2');
  await accessible(page);
  await page.getByRole('button', { name: 'Roll back' }).first().click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText(/meter-alarm runs as in version \d+ again/)).toBeVisible();
  await expect(page.locator('[data-graph]')).toContainText('kw >= 3');
  await expect(page.getByText('Every event is accounted for')).toBeVisible();
  node.write(FILE, first);
});

test('the graph of a flow names the cases of a route', async ({ page, node }) => {
  await node.mosquitto('horn/a', '{"db":1}');
  await open(page, '#/flows/horn-route');
  const graph = page.locator('.svelte-flow');
  await expect(graph.locator('strong').filter({ hasText: /^very-loud$/ })).toBeVisible();
  await expect(graph.locator('strong').filter({ hasText: /^default$/ })).toBeVisible();
  await accessible(page);
});
