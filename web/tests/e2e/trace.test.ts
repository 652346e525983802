import { accessible, expect, fits, open, test } from './console';

/** A promise, and what keeps it. */
function gateway(): { passed: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const passed = new Promise<void>((resolve) => (open = resolve));
  return { passed, open };
}

test('a message is found by its content, followed through each step, and sent again', async ({
  page,
  node,
}) => {
  node.write('streams/dose.yaml', 'topics: dose/+\nformat: json\nschema: { patient: text, mg: float }\n');
  node.write(
    'streams/given.yaml',
    'topics: given/+\nformat: json\nschema: { patient: text, grams: float }\n',
  );
  node.write('streams/ward.yaml', 'topics: ward/+\nformat: json\nschema: { patient: text }\n');
  node.write(
    'flows/doses.yaml',
    'from: dose\nsteps:\n  - where: mg > 0\n  - select: patient, mg / 1000 as grams\nto:\n  - topic: given/${patient}\nprocess: { in: [doses], mediations: [taken, in grams], out: [given] }\n',
  );
  node.write(
    'flows/wards.yaml',
    'from: given\nsteps:\n  - select: patient\nto:\n  - topic: ward/${patient}\n',
  );
  await expect
    .poll(async () => (await page.request.get(`${node.url}/api/v1/flows/wards`)).status())
    .toBe(200);
  await node.lines('dose/p', ['{"patient":"p-4711","mg":250}', '{"patient":"p-4712","mg":0}']);
  const end = async (stream: string): Promise<number> => {
    const answer = await page.request.get(`${node.url}/api/v1/streams/${stream}`);
    return ((await answer.json()) as { end: number }).end;
  };
  await expect.poll(() => end('ward')).toBe(1);

  await open(page, '#/trace');
  await page.locator('[data-search]').fill('p-4711');
  await page.locator('[data-search-run]').click();
  await expect(page.locator('[data-progress="done"]')).toContainText('3 found');
  await accessible(page);
  await page.locator('[data-found] tr').filter({ hasText: 'dose/p' }).getByRole('link').click();

  // The whole way: dose, given, ward.
  await expect(page.locator('[data-trace="done"]')).toContainText('3 events followed');
  const doses = page.locator('[data-trace-flow="doses"]');
  await expect(doses.locator('[data-trace-step="step:0"]')).toHaveAttribute('data-fate', 'passed');
  const grams = doses.locator('[data-trace-step="step:1"]');
  await expect(grams).toContainText('in grams');
  await expect(grams.locator('pre').first()).toContainText('"mg": 250');
  await expect(grams.locator('pre').last()).toContainText('"grams": 0.25');
  await expect(doses.locator('[data-found-at="given"]')).toBeVisible();
  await expect(page.locator('[data-hop="ward"]')).toBeVisible();
  await accessible(page);
  await fits(page);
  if (process.env.SHOTS) {
    await page.screenshot({ path: `${process.env.SHOTS}/trace-en.png`, fullPage: true });
    await page.getByRole('button', { name: '中文' }).click();
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('消息的路径');
    await page.screenshot({ path: `${process.env.SHOTS}/trace-zh.png`, fullPage: true });
    await page.getByRole('button', { name: 'English' }).click();
  }

  await doses.locator('[data-resend="step:1"]').click();
  await page.locator('[data-confirm]').click();
  await expect(page.getByText('doses: 1 row sent again, 0 failed')).toBeVisible();
  await expect.poll(() => end('given')).toBe(2);

  // The whole event, with another payload.
  await doses.locator('[data-resend="event"]').click();
  const payload = page.locator('textarea[name="payload"]');
  await expect(payload).toHaveValue(/"mg": ?250/);
  await payload.fill('{"patient":"p-4711","mg":500}');
  await page.locator('[data-confirm]').click();
  await expect.poll(() => end('given')).toBe(3);
  const last = await page.request.get(`${node.url}/api/v1/streams/given/events?from=2`);
  expect(await last.text()).toContain('"grams":0.5');

  // What another version of the flow makes of it.
  node.write(
    'flows/doses.yaml',
    'from: dose\nsteps:\n  - where: mg > 1000\n  - select: patient, mg / 1000 as grams\nto:\n  - topic: given/${patient}\nprocess: { in: [doses], mediations: [taken, in grams], out: [given] }\n',
  );
  const versions = async (): Promise<number> => {
    const answer = await page.request.get(`${node.url}/api/v1/flows/doses/versions`);
    return ((await answer.json()) as { versions: unknown[] }).versions.length;
  };
  await expect.poll(versions).toBe(2);
  await doses.locator('[data-versions]').click();
  const choice = doses.getByLabel('Other version');
  await choice.selectOption({ index: 0 });
  await expect(doses.locator('[data-trace-step="step:0"]')).toHaveAttribute('data-fate', 'filtered');
  await choice.selectOption({ index: 1 });
  await expect(doses.locator('[data-trace-step="step:0"]')).toHaveAttribute('data-fate', 'passed');
  await accessible(page);
});

test('an answer for an event that was left is not shown at the next one', async ({ page, node }) => {
  for (const name of ['early', 'later'])
    node.write(`streams/${name}.yaml`, `topics: ${name}/+\nformat: json\nschema: { n: int }\n`);
  node.write('flows/of-early.yaml', 'from: early\nsteps:\n  - where: n > 0\nto:\n  - topic: out/early\n');
  await expect
    .poll(async () => (await page.request.get(`${node.url}/api/v1/flows/of-early`)).status())
    .toBe(200);
  await node.lines('early/a', ['{"n":1}']);
  await node.lines('later/a', ['{"n":2}']);

  // The way of the first event with a chosen version is asked for, and answered when the page shows the second one.
  const gate = gateway();
  const asked = gateway();
  const answered = gateway();
  await page.route(/\/api\/v1\/trace\?.*version=/, async (route) => {
    asked.open();
    await gate.passed;
    await route.continue().catch(() => undefined);
    answered.open();
  });
  await open(page, '#/trace/early/0/0');
  const flow = page.locator('[data-trace-flow="of-early"]');
  await flow.locator('[data-versions]').click();
  await flow.getByLabel('Other version').selectOption({ index: 0 });
  await flow.getByLabel('Other version').dispatchEvent('change');
  await asked.passed;
  await page.evaluate(() => (location.hash = '#/trace/later/0/0'));
  await expect(page.locator('[data-hop="later"]')).toBeVisible();
  await expect(page.locator('[data-hop="early"]')).toHaveCount(0);
  gate.open();
  await answered.passed;
  await page.request.get(`${node.url}/api/v1/flows/of-early`);
  await expect(page.locator('[data-hop]')).toHaveCount(1);
  await expect(page.locator('[data-hop="later"]')).toBeVisible();
});

test('a message is found by a value at a path of its payload', async ({ page, node, watch }) => {
  watch.expected.push('/api/v1/search');
  node.write('streams/ward-lab.yaml', 'topics: ward-lab/+\nformat: json\nschema: { patient: json }\n');
  node.write(
    'streams/ward-adt.yaml',
    'topics: ward-adt/+\nformat: hl7\nschema: { patient: { type: text, path: PID.3.1 } }\n',
  );
  await expect
    .poll(async () => (await page.request.get(`${node.url}/api/v1/streams/ward-adt`)).status())
    .toBe(200);
  await node.lines('ward-lab/a', ['{"patient":{"id":"5511"}}', '{"patient":{"id":"5512"},"of":"5511"}']);
  const message = 'MSH|^~\\&|A||||||ADT^A01|M1|P|2.5\rPID|1||5511^^^H';
  const payload = Buffer.from(message).toString('base64');
  await node.events([JSON.stringify({ topic: 'ward-adt/a', payload_base64: payload })]);

  await open(page, '#/trace');
  const field = page.locator('[data-search-field]');
  const run = page.locator('[data-search-run]');
  const fault = page.locator('[data-search-field-fault]');
  const rows = page.locator('[data-found] tbody tr');

  // What is no path with a value is refused at the field, and nothing is sent.
  await field.fill('patient.id');
  await run.click();
  await expect(fault).toContainText('Write a path, =, and a value');
  await expect(field).toHaveAttribute('aria-invalid', 'true');
  await expect(page.locator('[data-progress]')).toHaveCount(0);
  await accessible(page);

  await field.fill('patient.id=5511');
  await expect(fault).toHaveCount(0);
  await run.click();
  await expect(page.locator('[data-progress="done"]')).toContainText('1 found');
  await expect(rows).toContainText('ward-lab/a');

  await field.fill('PID.3.1=5511');
  await run.click();
  await expect(rows).toContainText('ward-adt/a');
  await expect(rows).toHaveCount(1);
  await fits(page);

  // A path that the stream cannot have is refused by the node, and shown at the field.
  await page.locator('form.bar select').selectOption('ward-adt');
  await field.fill('patient=5511');
  await run.click();
  await expect(fault).toContainText('server.search-path');
  await page.getByRole('button', { name: '中文' }).click();
  await expect(page.getByLabel('载荷中某路径的值')).toBeVisible();
  await page.getByRole('button', { name: 'English' }).click();
});
