// The logic of the provider's guide on Bull 4 and PostgreSQL, as a merchant would write it.
// node peer.js work: tracks orders. node peer.js add ORDERS: hands that many orders over, 500 a call.
// Settings: REDIS_URL, and for `work` DATABASE_URL, API_URL, WEBHOOK_URL and SLOTS.
const Queue = require('bull');

const { REDIS_URL, DATABASE_URL, API_URL, WEBHOOK_URL, SLOTS = '64' } = process.env;
const FINAL = new Set(['FULFILLED', 'REFUNDED', 'QUEUED']);
const polls = new Queue('poll-topup', REDIS_URL);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function add(orders) {
  const job = (n) => ({
    name: 'poll-topup',
    data: { topupId: n.toString(16).padStart(24, '0') },
    opts: { removeOnComplete: true },
  });
  for (let first = 0; first < orders; first += 500) {
    const count = Math.min(500, orders - first);
    await polls.addBulk(Array.from({ length: count }, (_, n) => job(first + n + 1)));
  }
  await polls.close();
}

async function work() {
  const pool = new (require('pg').Pool)({ connectionString: DATABASE_URL, max: 10 });
  const rechecks = new Queue('recheck-topup', REDIS_URL);

  async function check(id) {
    const answer = await fetch(`${API_URL}/v3/internet/check-id/${id}`, { headers: { 'X-Access-Token': 'key' } });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return (await answer.json()).data;
  }
  async function pollTopupAdaptive(id) {
    const began = Date.now();
    for (let wait = 3_000; Date.now() - began < 300_000; await sleep(wait)) {
      const order = await check(id);
      if (FINAL.has(order.status)) return order;
      const passed = Date.now() - began;
      wait = passed > 60_000 ? 10_000 : passed > 30_000 ? 5_000 : 3_000;
    }
    throw new Error('not final after five minutes');
  }
  async function store(id, status, card = null) {
    const update = 'UPDATE internet_orders SET status = $2, card_code = $3, changed_at = now() WHERE topup_id = $1';
    await pool.query(update, [id, status, card]);
  }
  async function notify(id, type, order) {
    const body = JSON.stringify({ type: `topup.${type}`, data: { topupId: id, ...order } });
    const headers = { 'content-type': 'application/json', 'webhook-id': `evt_${id}_${type}` };
    await (await fetch(WEBHOOK_URL, { method: 'POST', headers, body })).arrayBuffer();
  }
  async function settle(id, order) {
    if (order.status === 'FULFILLED') {
      await store(id, 'FULFILLED', order.card_code);
      await notify(id, 'fulfilled', order);
    } else if (order.status === 'REFUNDED') {
      await store(id, 'REFUNDED');
      await notify(id, 'refunded', order);
    } else {
      await store(id, 'SCHEDULED');
      const backoff = { type: 'exponential', delay: 3_600_000 };
      await rechecks.add('recheck-topup', { topupId: id }, { delay: 86_400_000, attempts: 3, backoff });
      await notify(id, 'scheduled', order);
    }
  }

  await pool.query(
    'CREATE TABLE IF NOT EXISTS internet_orders (topup_id text PRIMARY KEY, status text, card_code text, changed_at timestamptz)',
  );
  polls.process('poll-topup', Number(SLOTS), async ({ data: { topupId } }) => {
    const insert = "INSERT INTO internet_orders (topup_id, status) VALUES ($1, 'HANDLING') ON CONFLICT DO NOTHING";
    await pool.query(insert, [topupId]);
    await settle(topupId, await pollTopupAdaptive(topupId));
  });
  rechecks.process('recheck-topup', async ({ data: { topupId } }) => settle(topupId, await check(topupId)));
}

const [mode, orders] = process.argv.slice(2);
if (mode === 'add') add(Number(orders));
else work();
