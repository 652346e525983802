import { readFileSync } from 'node:fs';
import { accessible, expect, fits, number, open, test, visit } from './console';
import { ticketFlow } from './node';

test('SQL runs by keyboard; rows are walked with the arrow keys; a chart is drawn', async ({
  page,
  node,
}) => {
  await node.lines('meter/sql/reading', ['{"kw":1.25}', '{"kw":2.5}', '{"kw":0.125}']);
  await open(page, '#/sql');
  const box = page.locator('[data-sql]');
  await expect(box).toBeVisible();
  await page.keyboard.press('/');
  await expect(box).toBeFocused();
  await box.fill("select topic, time, kw from meter where topic = 'meter/sql/reading' limit 50");
  await page.keyboard.press('Control+Enter');
  await expect(page.locator('[data-answer]')).toContainText(/^\s*[1-9]\d* rows? · [\d.]+ m?s/);
  const grid = page.getByRole('grid');
  // Numbers stand with their points in one line; times are in the zone that their column names.
  await expect(grid).toContainText('2.500');
  await expect(grid.getByRole('columnheader', { name: 'time' })).toContainText('UTC');
  await expect(grid).toContainText(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+/);
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

  await box.fill('select topic, count(*) as n from meter group by topic');
  await page.locator('[data-run]').click();
  await page.locator('[data-chart]').click();
  await expect(page.locator('main canvas')).toBeVisible();
  await accessible(page);
  // The question is remembered.
  await page.reload();
  await expect(box).toHaveValue('select topic, count(*) as n from meter group by topic');
});

test('SQL that is wrong shows where, why and the way out', async ({ page, watch }) => {
  watch.expected.push('/api/v1/sql');
  await open(page, '#/sql');
  await page.locator('[data-sql]').fill('select metre\nfrom meter_readings');
  await page.locator('[data-run]').click();
  const alert = page.getByRole('alert');
  await expect(alert).toContainText('metre');
  await expect(alert.locator('pre')).toHaveText(/1 │ select metre\s+│\s{8}\^{5}/);
  await accessible(page);
  await alert.locator('[data-take]').click();
  await expect(page.locator('[data-sql]')).toHaveValue('select meter\nfrom meter_readings');
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
  await expect(page.locator('[data-acks]')).toContainText('On disk (fsync)');
  await expect(page.locator('[data-acks]')).toContainText(/Acknowledged: 1 in/);
  // The flow that reads the stream makes an alarm of it, which is on the board of last values.
  await visit(page, '#/topics');
  await page.locator('[data-search]').fill('alarm/e2e/#');
  const board = page.locator('[data-topics] li').filter({ hasText: 'alarm/e2e/power' });
  await expect(board).toContainText('"value":3.2');
  await visit(page, '#/publish');
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

test('dead letters are grouped by cause; once the cause is fixed, they are driven again and arrive', async ({
  page,
  node,
}) => {
  await node.mosquitto('ticket/41', '{"hours":1}');
  await node.mosquitto('ticket/abc', '{"hours":42}');
  await node.mosquitto('ticket/xyz', '{"hours":43}');
  await node.mosquitto('ticket/44', '{"hours":');
  await node.mosquitto('meter/broken/reading', '{');
  await open(page);
  // They are counted before anybody looks at them.
  const badge = page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: /Dead letters/ });
  await expect.poll(async () => number(await badge.textContent())).toBeGreaterThanOrEqual(3);
  await badge.click();
  const of = (text: RegExp) =>
    page.locator('[data-groups] .group').filter({ hasText: 'tickets' }).filter({ hasText: text });
  const broken = of(/event\.json-end/);
  const cast = of(/sql\.cast-value/);
  await expect(broken.locator('.count')).toHaveText('1');
  await expect(cast.locator('.count')).toHaveText('2');
  await cast.getByRole('button', { name: 'Show events' }).click();
  await expect(cast.locator('.letter')).toHaveCount(2);
  await cast.locator('.letter .open').first().click();
  await expect(cast.locator('.detail pre')).toContainText('43');
  await accessible(page);
  // What broke an event in all flows that read it is one cause, told once.
  const same = page.locator('[data-groups] .cluster').filter({ hasText: 'The JSON document ends too early' });
  await expect(same.filter({ hasText: 'meter-alarm' }).filter({ hasText: 'meter-readings' })).toHaveCount(1);

  // One that is driven again before the cause is gone comes back, and that is said.
  await cast.locator('.letter input').first().check();
  await cast.getByRole('button', { name: 'Re-drive selected (1)' }).click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText('Re-driven: 1, of which 1 failed again')).toBeVisible();

  const before = await page.request.get('/api/v1/flows/tickets');
  const { version } = (await before.json()) as { version: number };
  node.write(
    'flows/tickets.yaml',
    ticketFlow('coalesce(try_cast(topic_part(topic, 2) as int), cast(hours as int))'),
  );
  await expect
    .poll(async () => {
      const flow = (await (await page.request.get('/api/v1/flows/tickets')).json()) as { version: number };
      return flow.version;
    })
    .toBeGreaterThan(version);
  await cast.locator('[data-redrive]').click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText(/Re-driven: [23]$/)).toBeVisible();
  await expect(cast).toHaveCount(0);
  await expect(broken.locator('.count')).toHaveText('1');
  await visit(page, '#/tables/tickets');
  await expect(page.locator('[data-live="rows"]')).toHaveText('3');
  for (const ticket of ['41', '42', '43'])
    await expect(page.getByRole('gridcell', { name: ticket, exact: true }).first()).toBeVisible();
});

test('a table shows its rows', async ({ page }) => {
  await open(page, '#/tables');
  await page.getByRole('link', { name: 'machine_now' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('machine_now');
  await expect(page.getByText('Hot (memory)')).toBeVisible();
  await expect(page.getByRole('grid').getByRole('gridcell').first()).toBeVisible();
  await page.getByRole('link', { name: 'Query with SQL' }).click();
  await expect(page.locator('[data-answer]')).toContainText(/1 row ·/);
});

test('the project and its history can be read', async ({ page }) => {
  await open(page, '#/project');
  await expect(page.getByRole('heading', { name: 'Files' })).toBeVisible();
  await page.locator('main nav a', { hasText: 'cpu-alarm.yaml' }).click();
  await expect(page.locator('main pre')).toContainText('used_percent >= 90');
  await expect(page.getByText(/and \d+ more/)).toBeVisible();
});

test('a version without a step that holds events is refused, and can be computed again', async ({
  page,
  node,
}) => {
  const flow = async () => {
    const answer = await page.request.get('/api/v1/flows/kept');
    return (await answer.json()) as {
      source?: string;
      version?: number;
      conservation?: { taken: number };
    };
  };
  const save = async (step: string) => {
    const source = `from: crate\nsteps:\n  - ${step}\nto:\n  - topic: shelf/kept\n`;
    node.write('flows/kept.yaml', source);
    await expect.poll(async () => (await flow()).source).toBe(source);
  };
  await save('where: db >= 0');
  await save('delay: { for: 1h }');
  await node.events([JSON.stringify({ topic: 'crate/kept', payload: { db: 1 } })]);
  await expect.poll(async () => (await flow()).conservation?.taken).toBeGreaterThan(0);
  const holds = (await flow()).version;
  await open(page, '#/flows/kept');
  await page.getByRole('button', { name: 'Roll back' }).first().click();
  await page.locator('[data-confirm]').click();
  const dialog = page.getByRole('dialog');
  await expect(dialog.getByRole('alert')).toContainText('delay-1: 1');
  expect((await flow()).version).toBe(holds);
  await accessible(page);
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/rollback.png` });
  await dialog.locator('[data-replay]').check();
  await page.locator('[data-confirm]').click();
  await expect(dialog).toHaveCount(0);
  expect((await flow()).version).toBeGreaterThan(holds ?? 0);

  // The same of a document that is deployed.
  const answer = await page.request.get('/api/v1/flows/kept/process');
  const { xml } = (await answer.json()) as { xml: string };
  await save('delay: { for: 2h }');
  await node.events([JSON.stringify({ topic: 'crate/kept', payload: { db: 1 } })]);
  await expect.poll(async () => (await flow()).conservation?.taken).toBeGreaterThan(0);
  const again = (await flow()).version;
  await visit(page, '#/processes/kept');
  const file = { name: 'kept.xml', mimeType: 'text/xml', buffer: Buffer.from(xml) };
  await page.locator('[data-file]').setInputFiles(file);
  await page.locator('[data-deploy]').click();
  await expect(page.getByRole('alert')).toContainText('delay-1: ');
  expect((await flow()).version).toBe(again);
  await accessible(page);
  if (process.env.SHOTS)
    await page.screenshot({ path: `${process.env.SHOTS}/process-refused.png`, fullPage: true });
  await page.locator('[data-replay]').check();
  await page.locator('[data-deploy]').click();
  await expect(page.locator('[data-replay]')).toHaveCount(0);
  expect((await flow()).version).toBeGreaterThan(again ?? 0);
});

test('the last value of a topic stays on its board', async ({ page, node }) => {
  await node.mosquitto('meter/e2e-kept/reading', '{"kw":4.25}', '-r');
  await node.mosquitto('meter/e2e-passed/reading', '{"kw":1.5}');
  await open(page, '#/topics');
  await page.locator('[data-search]').fill('meter/#');
  const board = page.locator('[data-topics] li');
  await expect(board.filter({ hasText: 'meter/e2e-kept/reading' })).toContainText('4.25');
  await expect(board.filter({ hasText: 'meter/e2e-passed/reading' })).toContainText('1.5');
  await page.getByLabel('Retained only').check();
  await expect(board.filter({ hasText: 'meter/e2e-passed/reading' })).toHaveCount(0);
  await expect(board.filter({ hasText: 'meter/e2e-kept/reading' })).toContainText('4.25');
});

test('what publishers write is shown and never run; bytes are shown as bytes', async ({ page, node }) => {
  const asked: string[] = [];
  page.on('dialog', (dialog) => {
    asked.push(dialog.message());
    void dialog.dismiss();
  });
  const markup = '<img src=x onerror=alert(1)>';
  const topic = `e2e-markup/${markup}/x`;
  await node.mosquitto(
    topic,
    '<script>alert(2)</script>',
    '-D',
    'publish',
    'user-property',
    'site',
    markup,
    '-V',
    '5',
  );
  const bytes = await page.request.post(`${node.url}/api/v1/events?topic=e2e-markup/bytes`, {
    headers: { 'content-type': 'application/octet-stream' },
    data: Buffer.from([0, 1, 0xfe, 0xff, 0x41]),
  });
  expect(bytes.status()).toBe(200);
  await open(page, '#/topics');
  await page.locator('[data-search]').fill('e2e-markup/#');
  const board = page.locator('[data-topics] li');
  await board.filter({ hasText: topic }).getByRole('button').click();
  await expect(board.locator('.detail pre')).toHaveText('<script>alert(2)</script>');
  await expect(board.locator('.detail')).toContainText(`site=${markup}`);
  const raw = board.filter({ hasText: 'e2e-markup/bytes' });
  await expect(raw).toContainText('binary, 5 B 00 01 fe ff 41');
  await raw.getByRole('button').click();
  await expect(raw.locator('.detail pre')).toHaveText(/^00000000 {2}00 01 fe ff 41 +\.{4}A$/);
  await visit(page, '#/streams/inbox');
  await expect(page.locator('[data-tail]').getByText(topic).first()).toBeVisible();
  await expect(page.locator('main img')).toHaveCount(0);
  expect(asked).toEqual([]);
});

test('the daily work is done in Chinese as in English', async ({ browser, node, baseURL }) => {
  const context = await browser.newContext({ locale: 'zh-CN', timezoneId: 'Asia/Shanghai', baseURL });
  const page = await context.newPage();
  await visit(page, '#/publish');
  await page.getByLabel('主题', { exact: true }).fill('meter/zh/reading');
  await page.getByLabel('载荷').fill('{ "kw": 3.5 }');
  await page.locator('[data-publish]').click();
  await expect(page.locator('[data-acks]')).toContainText('已落盘（fsync）');
  await expect(page.locator('[data-acks]')).toContainText(/已确认 1 条，耗时 [\d.]+ (毫秒|秒)/);

  await visit(page, '#/streams/meter');
  await expect(page.locator('[data-tail]').getByText('meter/zh/reading').first()).toBeVisible();
  await page.getByRole('button', { name: '暂停' }).click();
  await node.mosquitto('meter/zh/reading', '{"kw":1}');
  await expect(page.getByText(/已暂停 · 期间到达 [1-9]\d* 条/)).toBeVisible();

  await visit(page, '#/tables');
  await expect(page.getByRole('row', { name: /machine_now/ })).toContainText('热表（内存） · 1 分钟');
  await visit(page, '#/sql');
  await page.locator('[data-sql]').fill("select kw from meter where topic = 'meter/zh/reading' and kw > 3");
  await page.locator('[data-run]').click();
  await expect(page.locator('[data-answer]')).toContainText(/1 行，耗时/);

  await visit(page, '#/flows/machine-now');
  await expect(page.locator('[data-live="watermark"]')).toHaveText(
    /^\s*(刚刚|\d+ (秒|分钟)前)\s+\d{4}-.* UTC\+8\s*$/,
  );
  await expect(
    page
      .locator('[data-graph]')
      .getByText(/^处理至 (刚刚|\d+ (秒|分钟)前)$/)
      .first(),
  ).toBeVisible();
  await page.getByRole('button', { name: '暂停' }).click();
  await expect(page.getByRole('dialog')).toContainText('不会丢失');
  await page.locator('[data-confirm]').click();
  await expect(page.locator('main h1 + .tag')).toHaveText('已暂停');
  await page.getByRole('button', { name: '恢复' }).click();
  await page.locator('[data-confirm]').click();
  await expect(page.locator('main h1 + .tag')).toHaveText('运行中');

  await node.mosquitto('ticket/zh', '{"hours":1}');
  await visit(page, '#/dead-letters');
  const group = page.locator('[data-groups] .group').filter({ hasText: 'tickets' }).first();
  await group.getByRole('button', { name: '查看事件' }).click();
  await expect(group.locator('.letter').first()).toBeVisible();
  await group.locator('[data-redrive]').click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText(/已重新投递/).first()).toBeVisible();
  await context.close();
});

test('an export has all rows, with all their digits', async ({ page, node }) => {
  const lines = Array.from({ length: 1500 }, (_, n) =>
    JSON.stringify({ topic: 'big/1', payload: { n, id: `ID${n}` } }),
  );
  await node.events([...lines, '{"topic":"big/1","payload":{"n":9007199254740993,"id":""}}']);
  const sql = "select payload from inbox where topic = 'big/1'";
  await open(page, `#/sql?q=${encodeURIComponent(sql)}`);
  await expect(page.locator('[data-answer]')).toContainText('stopped after 1,000 rows');
  const [download] = await Promise.all([page.waitForEvent('download'), page.locator('[data-csv]').click()]);
  const text = readFileSync(await download.path(), 'utf8');
  expect(text.trim().split('\r\n')).toHaveLength(1502);
  expect(text).toContain('9007199254740993');
  await page.goto(
    `/#/sql?q=${encodeURIComponent('select 9007199254740993 as id, 18446744073709551615 as u')}`,
  );
  await expect(page.getByRole('gridcell').first()).toHaveText('9007199254740993');
  await expect(page.getByRole('gridcell').nth(1)).toHaveText('18446744073709551615');
});

test('the API can be tried from its own description', async ({ page }) => {
  await open(page, '#/api');
  await page.locator('[data-search]').fill('/api/v1/streams/{name}');
  await page.getByRole('button', { name: /GET \/api\/v1\/streams\/\{name\} / }).click();
  await page.locator('form').getByRole('textbox').first().fill('meter');
  await page.locator('[data-send]').click();
  await expect(page.locator('[data-status="200"]')).toBeVisible();
  await expect(page.getByLabel('Response', { exact: true })).toContainText('"name": "meter"');
  await expect(page.locator('.curl')).toContainText('/api/v1/streams/meter');
  await accessible(page);
  // It speaks the language of the console; what was typed stays.
  await page.getByRole('button', { name: '中文' }).click();
  const operation = page.getByRole('button', { name: /GET \/api\/v1\/streams\/\{name\} / });
  await expect(operation).toContainText('一个流。');
  await expect(page.locator('form').getByText('流的名称。')).toBeVisible();
  await expect(page.locator('form').getByRole('textbox').first()).toHaveValue('meter');
  await page.getByRole('button', { name: 'English' }).click();
  await expect(operation).toContainText('One stream.');
});

test('gateways are listed; a connection has a page, is tested and says what it cannot do', async ({
  page,
  node,
  watch,
}) => {
  watch.expected.push('/api/v1/connections/erp/');
  await open(page, '#/connections');
  const mqtt = page.locator('[data-gateways] tr').filter({ hasText: 'mqtt' });
  await expect(mqtt).toContainText(`mqtt://127.0.0.1:${node.mqtt}`);
  await page.getByRole('link', { name: 'erp' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('erp');
  await expect(page.getByRole('link', { name: 'meter-billing' })).toBeVisible();
  for (const button of ['[data-test]', '[data-browse]']) {
    await page.locator(button).click();
    await expect(page.getByRole('alert').filter({ hasText: 'http' }).first()).toBeVisible();
  }
  await accessible(page);
});

test('a hot table says where its rows are', async ({ page }) => {
  // What a node says of a table in Redis is tested there.
  const table = {
    name: 'running',
    kind: 'hot',
    rows: 2,
    key: ['meter'],
    columns: [{ name: 'meter', type: 'text' }],
    hot: {
      place: 'cache: plant:running',
      bytes: null,
      expired: null,
      evicted: null,
      moves: { to: 'past', moved: 7, rejected: 0, lag_s: 0, error: null },
    },
    spec: { hot: { connection: 'cache', table: 'plant:running', ttl: '2h', moves_to: 'past' } },
  };
  await page.route('**/api/v1/tables', (route) => route.fulfill({ json: { tables: [table] } }));
  await page.route('**/api/v1/tables/running', (route) => route.fulfill({ json: table }));
  await page.route('**/api/v1/sql', (route) => route.fulfill({ json: { columns: [], rows: [] } }));
  await open(page, '#/tables');
  await expect(page.getByRole('row', { name: /running/ })).toContainText('Hot (Redis)');
  await visit(page, '#/tables/running');
  await expect(page.locator('[data-place]')).toHaveText('cache: plant:running');
  await expect(page.locator('main')).not.toContainText('Evicted');
  await accessible(page);
});

test('a table is planned to be copied and kept in step, and the files of the plan are written', async ({
  page,
}) => {
  // The databases are the test's own words: what a node plans with real ones is tested with the command line.
  const connection = (name: string, kind: string) => ({
    name,
    kind,
    direction: 'service',
    state: 'idle',
    flows: [],
  });
  const answers: Record<string, unknown> = {
    connections: {
      connections: [connection('his', 'mysql'), connection('lab', 'jdbc'), connection('nis', 'postgres')],
    },
    'connections/lab/tables': {
      server: 'H2 2.3',
      tables: [
        {
          schema: '',
          name: 'result',
          rows: null,
          columns: [
            { name: 'id', type: 'BIGINT', key: true },
            { name: 'seen', type: 'TIMESTAMP', key: false },
          ],
        },
      ],
    },
    'connections/his/tables': {
      server: 'MariaDB 10.11',
      tables: [
        {
          schema: 'his',
          name: 'patient',
          rows: 3,
          columns: [
            { name: 'id', type: 'bigint(20)', key: true },
            { name: 'changed', type: 'datetime(6)', key: false },
          ],
        },
        {
          schema: 'his',
          name: 'ward',
          rows: 2,
          columns: [{ name: 'id', type: 'bigint(20)', key: true }],
        },
      ],
    },
  };
  const why = { class: 'configuration', code: 'x', message: 'Run this:', message_zh: '请执行：' };
  const planned = {
    name: 'patient',
    from: 'his:his.patient',
    to: 'nis:public.patient',
    exists: false,
    flows: ['patient', 'patient_back'],
    files: {
      'flows/patient.yaml': 'from: patient_changes\n',
      'streams/patient_changes.yaml': 'topics: patient/changes\n',
    },
    columns: [
      { table: 'his:his.patient', name: 'id', from: 'bigint(20)', to: 'bigint', key: true },
      {
        table: 'his:his.patient',
        name: 'changed',
        from: 'datetime(6)',
        to: 'timestamp with time zone',
        key: false,
      },
    ],
    refusals: [],
    warnings: [],
    statements: [{ connection: 'nis', statement: 'CREATE TABLE "public"."patient" ("id" bigint)', why }],
    diagnostics: [],
  };
  for (const [path, answer] of Object.entries(answers))
    await page.route(`**/api/v1/${path}`, (route) => route.fulfill({ json: answer }));
  const asked: Record<string, unknown>[] = [];
  const answered = (path: string, answer: unknown) =>
    page.route(`**/api/v1/${path}`, async (route) => {
      asked.push(route.request().postDataJSON());
      await route.fulfill({ json: answer });
    });
  const ready = { ...planned, exists: true, statements: [] };
  await page.route('**/api/v1/copy-table', async (route) => {
    await route.fulfill({ json: asked.length === 0 ? planned : ready });
    asked.push(route.request().postDataJSON());
  });
  await answered('apply', { diagnostics: [], changes: [], version: 2, applied: null });

  await open(page, '#/connections');
  await page.locator('[data-copy]').click();
  await page.locator('[name="from"]').selectOption('his');
  await page.locator('[name="table"]').selectOption('his.patient');
  await page.locator('[name="to"]').selectOption('nis');
  await page.getByLabel(/Both ways/).check();
  await page.locator('[name="version"]').selectOption('changed');
  await page.locator('[name="wins"]').selectOption('first');
  await page.locator('[data-plan]').click();
  await expect(page.locator('[data-statements]')).toContainText('CREATE TABLE');
  expect(asked[0]).toMatchObject({
    from: 'his:his.patient',
    to: 'nis',
    both_ways: true,
    version: 'changed',
    wins: 'first',
  });
  await page.getByRole('button', { name: 'streams/patient_changes.yaml' }).click();
  await expect(page.getByText('topics: patient/changes')).toBeVisible();
  await accessible(page);
  await page.setViewportSize({ width: 380, height: 800 });
  await accessible(page);
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(380);
  // Nothing is written before the databases are ready.
  await expect(page.locator('[data-write]')).toBeDisabled();
  await page.locator('[data-plan]').click();
  await expect(page.locator('[data-statements]')).toHaveCount(0);
  await page.locator('[data-write]').click();
  await expect(page.locator('[data-written]')).toBeVisible();
  // The files are added to the project that runs, whatever it is by now.
  expect(asked[2]).toMatchObject({ files: planned.files, add: true });
  // Several tables go one way, under their own names.
  await page.locator('[name="table"]').selectOption(['his.patient', 'his.ward']);
  await expect(page.locator('[name="target"]')).toBeDisabled();
  await expect(page.getByLabel(/Both ways/)).toBeDisabled();
  await page.locator('[data-plan]').click();
  await expect(page.getByRole('columnheader', { name: 'Table', exact: true })).toBeVisible();
  expect(asked[3]).toMatchObject({ from: 'his:his.patient,his.ward', to: 'nis', both_ways: false });
  await accessible(page);
  // A database behind a driver is polled by a column or copied once, and is not written.
  await page.locator('[name="from"]').selectOption('lab');
  await page.locator('[name="table"]').selectOption('result');
  await expect(page.locator('[name="to"] option[value="lab"]')).toHaveCount(0);
  await expect(page.getByLabel(/Both ways/)).toBeDisabled();
  await expect(page.locator('[name="version"] option')).toHaveText(['Choose', 'seen (TIMESTAMP)']);
  await page.locator('[name="version"]').selectOption('seen');
  await expect(page.getByText(/Deleted rows/)).toBeVisible();
  await page.locator('[data-plan]').click();
  await expect.poll(() => asked.length).toBe(5);
  expect(asked[4]).toMatchObject({ from: 'lab:result', to: 'nis', version: 'seen', both_ways: false });
  await accessible(page);
  await page.getByLabel(/Copy the rows once/).check();
  await expect(page.locator('[name="version"]')).toHaveCount(0);
  await page.locator('[data-plan]').click();
  await expect.poll(() => asked.length).toBe(6);
  expect(asked[5]).toMatchObject({ from: 'lab:result', once: true });
  expect(asked[5]).not.toHaveProperty('version');
});

test('an instance of an orchestration shows what it waits for, takes a form, and has a history', async ({
  page,
  node,
}) => {
  const begun = await fetch(`http://127.0.0.1:${node.http}/api/v1/orchestrations/leave/instances`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input: { who: 'eve' } }),
  });
  expect(begun.status).toBe(202);
  await open(page, '#/orchestrations');
  await page.getByRole('link', { name: 'leave' }).click();
  await expect(page.locator('[data-instances] tbody tr').filter({ hasText: 'eve' })).toContainText('grant');
  await page.getByRole('link', { name: 'eve' }).click();
  const form = page.locator('[data-waiting="grant"]');
  await expect(form).toContainText('May eve leave?');
  await form.getByLabel('granted').selectOption('true');
  await form.getByLabel('note').fill('two days');
  await accessible(page);
  await form.locator('[data-answer]').click();
  const history = page.locator('[data-history]');
  await expect(history).toContainText('{"granted":true,"note":"two days"}');
  await expect(page.locator('[data-waiting]')).toHaveCount(0);
  await fits(page);
});
