import { accessible, expect, fits, open, test, visit } from './console';

test('the APIs of the project are listed, described, and tried', async ({ page, watch }) => {
  watch.expected.push('/apis/twice', '/apis/horns');
  await open(page, '#/apis');
  const row = page.locator('[data-api="twice"]');
  await expect(row).toContainText('Request and reply');
  await row.getByRole('link').click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('twice');
  await expect(page.locator('[data-openapi]')).toHaveAttribute('href', '/apis/twice/openapi.json');
  await page.locator('[data-body]').fill('{"n": 21}');
  await page.locator('[data-send]').click();
  await expect(page.locator('[data-status]')).toHaveAttribute('data-status', '200');
  await expect(page.locator('[data-answer]')).toContainText('42');
  await expect(page.locator('[data-count="answered"]')).toHaveText('1');
  await page.locator('[data-body]').fill('{"n": "many"}');
  await page.locator('[data-send]').click();
  await expect(page.locator('[data-status]')).toHaveAttribute('data-status', '400');
  await expect(page.locator('[data-failure]')).toContainText('n');
  await expect(page.locator('[data-count="refused"]')).toHaveText('1');
  await accessible(page);
  await fits(page);
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/api.png`, fullPage: true });

  // A query takes its parameters in the URL.
  await visit(page, '#/apis/horns');
  await page.locator('[data-parameter="least"]').fill('2');
  await page.locator('[data-send]').click();
  await expect(page.locator('[data-status]')).toHaveAttribute('data-status', '200');
  await expect(page.locator('[data-answer]')).toContainText('"truncated": false');
  await visit(page, '#/apis');
  await expect(row).toContainText('400');
  await accessible(page);
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/apis.png`, fullPage: true });
  await page.setViewportSize({ width: 390, height: 844 });
  await fits(page);
  if (process.env.SHOTS)
    await page.screenshot({ path: `${process.env.SHOTS}/apis-phone.png`, fullPage: true });
  await visit(page, '#/apis/twice');
  await fits(page);
  if (process.env.SHOTS)
    await page.screenshot({ path: `${process.env.SHOTS}/api-phone.png`, fullPage: true });
});
