import { accessible, expect, fits, open, test, visit } from './console';

const SORTED = `<esbprocess name="sorted">
  <inendpoints>
    <inendpoint name="parts" stream="crate"><outbounds><nexthop>priced</nexthop></outbounds></inendpoint>
  </inendpoints>
  <mediations>
    <mediation name="priced" step="where">
      <config>try_cast(key as int) &gt; 0</config><outbounds><nexthop>by price</nexthop></outbounds>
    </mediation>
    <mediation name="by price" step="route">
      <outbounds>
        <outbound case="dear"><rule>try_cast(key as int) &gt; 100</rule><nexthop>dear</nexthop></outbound>
        <outbound default="true"><nexthop>cheap</nexthop></outbound>
      </outbounds>
    </mediation>
  </mediations>
  <outendpoints>
    <outendpoint name="cheap" topic="shelf/cheap"/>
    <outendpoint name="dear" topic="shelf/dear"/>
  </outendpoints>
</esbprocess>
`;

test('a process is imported, drawn with live counts, changed and deployed again', async ({
  page,
  node,
  watch,
}) => {
  watch.expected.push('/api/v1/processes');
  await open(page, '#/processes');
  await page.locator('[data-import]').click();
  const wrong = SORTED.replace('<nexthop>priced', '<nexthop>prized');
  const choose = (xml: string) =>
    page
      .locator('[data-file]')
      .setInputFiles({ name: 'sorted.xml', mimeType: 'text/xml', buffer: Buffer.from(xml) });
  await choose(wrong);
  await page.locator('[data-check]').click();
  await expect(page.getByRole('alert')).toContainText('did you mean priced');
  await choose(SORTED);
  await page.locator('[data-check]').click();
  await expect(page.getByRole('status').filter({ hasText: 'flows/sorted.yaml' })).toBeVisible();
  await accessible(page);
  await page.locator('[data-deploy]').click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('sorted');

  await node.events(
    ['5', '500', '0', '7'].map((key) => JSON.stringify({ topic: 'crate/e2e', key, payload: { db: 1 } })),
  );
  const counts = (name: string) =>
    page.locator(`[data-part="${name}"] td.num`).evaluateAll((cells) => cells.map((c) => c.textContent));
  // Received, sent, filtered, dead.
  await expect.poll(() => counts('priced')).toEqual(['4', '3', '1', '0']);
  await expect.poll(() => counts('by price')).toEqual(['3', '3', '0', '0']);
  await expect.poll(() => counts('cheap')).toEqual(['2', '2', '0', '0']);
  await expect.poll(() => counts('dear')).toEqual(['1', '1', '0', '0']);
  await expect(page.locator('[data-graph] [data-node="step:0"]')).toContainText('priced');
  await accessible(page);
  await fits(page);
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/process.png`, fullPage: true });

  const editor = page.locator('.cm-content');
  await expect(editor).toContainText('esbprocess');
  await choose(
    SORTED.replace('&gt; 100', '&gt; 6')
      .replace('"by price"', '"by worth"')
      .replace('>by price<', '>by worth<'),
  );
  await page.locator('[data-deploy]').click();
  await expect(page.locator('[data-part="by worth"]')).toBeVisible();
  await node.events([JSON.stringify({ topic: 'crate/e2e', key: '8', payload: { db: 1 } })]);
  await expect.poll(() => counts('dear')).toEqual(['2', '2', '0', '0']);

  await visit(page, '#/processes');
  await expect(page.getByRole('link', { name: 'sorted' })).toBeVisible();
});

test('a mapping is drawn with a line from each column to its fields', async ({ page }) => {
  await open(page, '#/flows/crates');
  const map = page.locator('[data-mapping]');
  await expect(map.locator('[data-line]')).toHaveCount(3);
  await expect(map.locator('[data-line="db→size"]')).toBeAttached();
  await expect(map.locator('[data-field="size"]')).toContainText(
    'codes 1 → small, 2 → large · otherwise other',
  );
  await expect(map.locator('[data-field="unit"]')).toContainText('constant dB');
  // It stays when the counts of the next second come.
  await expect(page.locator('[data-live="lag"]')).toBeVisible();
  await accessible(page);
  await fits(page);
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/map.png`, fullPage: true });
  await page.setViewportSize({ width: 390, height: 844 });
  await fits(page);
  if (process.env.SHOTS) await map.screenshot({ path: `${process.env.SHOTS}/map-phone.png` });
});
