import { accessible, expect, fits, open, test, visit } from './console';

test('results of a window and of an aggregator are shown with the events that each was made of', async ({
  page,
  node,
}) => {
  // Times far ahead: no window closes because its stream is idle.
  const ahead = 'time: { max_ahead: 30000d }\n';
  const stream = (topics: string): string =>
    `topics: ${topics}\nformat: json\nschema: { site: text, mm: float }\nlateness: 0s\n${ahead}`;
  node.write('streams/gauge.yaml', stream('gauge/+'));
  node.write('streams/rain.yaml', stream('rain/+'));
  node.write('streams/pair.yaml', stream('pair/+'));
  node.write(
    'flows/rain-sums.yaml',
    "from: gauge\nsteps:\n  - where: mm > 0\n  - window: { tumble: 1m, by: [site], select: 'site, sum(mm) as mm' }\nto:\n  - topic: rain/${site}\n",
  );
  node.write(
    'flows/rain-pairs.yaml',
    "from: gauge\nsteps:\n  - where: mm > 0\n  - aggregate: { by: [site], count: 2, within: 1h, reopen: true, select: 'site, max(mm) as mm' }\nto:\n  - topic: pair/${site}\n",
  );
  for (const flow of ['rain-sums', 'rain-pairs'])
    await expect
      .poll(async () => (await page.request.get(`${node.url}/api/v1/flows/${flow}`)).status())
      .toBe(200);
  const gauge = (site: string, time: string, mm: number): string =>
    JSON.stringify({ topic: `gauge/${site}`, time: `2090-11-29T08:${time}Z`, payload: { site, mm } });
  await node.events([
    gauge('a', '00:10', 1),
    gauge('b', '00:20', 2),
    gauge('a', '00:30', 3),
    gauge('a', '01:30', 5),
    gauge('a', '01:40', 0),
  ]);
  const end = async (name: string): Promise<number> => {
    const answer = await page.request.get(`${node.url}/api/v1/streams/${name}`);
    return ((await answer.json()) as { end: number }).end;
  };
  // Both sites' first minute, and the first pair.
  await expect.poll(() => end('rain')).toBe(2);
  await expect.poll(() => end('pair')).toBe(1);

  await open(page, '#/trace/gauge/0/0');
  await expect(page.locator('[data-trace="done"]')).toContainText('3 events followed');
  const lineage = (flow: string) => page.locator(`[data-trace-flow="${flow}"] [data-lineage]`);
  for (const [flow, made, into] of [
    ['rain-sums', /"mm": ?4/, 'rain'],
    ['rain-pairs', /"mm": ?3/, 'pair'],
  ] as const) {
    const its = lineage(flow);
    await expect(its).toHaveAttribute('data-lineage', '1');
    await expect(its).toContainText('run again in memory over 5 events');
    await expect(its.locator('[data-result="to:0"] pre')).toHaveText(made);
    await expect(its.locator(`[data-found-at="${into}"]`)).toBeVisible();
    // Its own site's events of the group alone; the one that is traced leads nowhere else.
    await expect(its).toContainText('Made of 2 events:');
    await expect(its.locator('[data-input]')).toHaveCount(2);
    await expect(its.locator('[data-input="gauge/0@0"]')).toContainText(/"mm": ?1/);
    await expect(its.locator('[data-input="gauge/0@0"] a')).toHaveCount(0);
    await expect(its.locator('[data-input="gauge/0@2"]')).toContainText(/"mm": ?3/);
    // The way goes on with the result.
    await expect(page.locator(`[data-hop="${into}"]`)).toBeVisible();
  }
  await accessible(page);
  await fits(page);
  if (process.env.SHOTS) {
    await page.screenshot({ path: `${process.env.SHOTS}/lineage-en.png`, fullPage: true });
    await page.getByRole('button', { name: '中文' }).click();
    await expect(lineage('rain-sums')).toContainText('由 2 个事件产生');
    await page.screenshot({ path: `${process.env.SHOTS}/lineage-zh.png`, fullPage: true });
    await page.getByRole('button', { name: 'English' }).click();
  }

  // To another event of the same result.
  await lineage('rain-sums').locator('[data-input="gauge/0@2"] a').click();
  await expect(page).toHaveURL(/#\/trace\/gauge\/0\/2$/);
  await expect(lineage('rain-sums').locator('[data-input="gauge/0@2"] a')).toHaveCount(0);
  await expect(lineage('rain-sums').locator('[data-input="gauge/0@0"] a')).toHaveCount(1);

  // A window that is open, and an event that a condition leaves out.
  await visit(page, '#/trace/gauge/0/3');
  await expect(lineage('rain-sums').locator('[data-result]')).toContainText("still in the flow's state");
  await expect(lineage('rain-sums').locator('[data-found-at]')).toHaveCount(0);
  await visit(page, '#/trace/gauge/0/4');
  await expect(lineage('rain-sums')).toHaveAttribute('data-lineage', '0');
  await expect(lineage('rain-sums')).toContainText('this one is part of no result');
  await expect(lineage('rain-sums').locator('[data-result]')).toHaveCount(0);
});
