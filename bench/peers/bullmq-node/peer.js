// BullMQ on Node, doing what `topup-worker bench` does. Figures are printed as one JSON object.
//   node peer.js noop JOBS SLOTS | delayed JOBS WINDOW_MS | fill JOBS | fill-now JOBS | work SLOTS HOLD_MS
// The Redis of REDIS_URL must be empty.
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');

const QUEUE = 'poll-topup';
const CALL = 500; // jobs in one call
const LEAD_MS = 5_000;
const DELAYED_SLOTS = 200;
const [mode, ...numbers] = process.argv.slice(2);
const [first, second] = numbers.map(Number);
const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const removed = { removeOnComplete: true };

async function add(jobs, optionsOf = () => removed, dataOf = () => ({})) {
  const queue = new Queue(QUEUE, { connection });
  const began = Date.now();
  for (let from = 0; from < jobs; from += CALL) {
    await queue.addBulk(Array.from({ length: Math.min(CALL, jobs - from) }, (_, n) => ({
      name: QUEUE,
      data: { topupId: '6901616fe9e88196' + (from + n).toString(16).padStart(8, '0'), ...dataOf(from + n) },
      opts: optionsOf(from + n),
    })));
  }
  return jobs / ((Date.now() - began) / 1000);
}

// Runs jobs until so many are done.
function work(slots, jobs, handle = async () => {}) {
  return new Promise((resolve) => {
    let done = 0;
    const worker = new Worker(QUEUE, handle, { connection, concurrency: slots });
    worker.on('completed', () => ++done === jobs && resolve());
  });
}

function delayed(dueOf) {
  return (job) => ({ ...removed, delay: dueOf(job) - Date.now(), attempts: 3, backoff: { type: 'exponential', delay: 3_600_000 } });
}

const modes = {
  async noop(jobs, slots) {
    const add_jobs_per_second = await add(jobs);
    const began = Date.now();
    await work(slots, jobs);
    return { add_jobs_per_second, noop_jobs_per_second: jobs / ((Date.now() - began) / 1000) };
  },
  async delayed(jobs, windowMs) {
    const base = Date.now() + LEAD_MS;
    const dueOf = (job) => base + Math.floor((job * windowMs) / jobs);
    await add(jobs, delayed(dueOf), (job) => ({ due: dueOf(job) }));
    const lateness = [];
    await work(DELAYED_SLOTS, jobs, async (job) => { lateness.push(Date.now() - job.data.due); });
    lateness.sort((a, b) => a - b);
    const at = (share) => lateness[Math.min(jobs - 1, Math.floor(jobs * share))];
    return { lateness_p50_ms: at(0.5), lateness_p99_ms: at(0.99), lateness_max_ms: at(1) };
  },
  async fill(jobs) {
    const base = Date.now() + 3_600_000;
    await add(jobs, delayed((job) => base + job), (job) => ({ due: base + job }));
    return {};
  },
  async 'fill-now'(jobs) {
    await add(jobs);
    return {};
  },
  async work(slots, holdMs) {
    await work(slots, Infinity, () => new Promise((resolve) => setTimeout(resolve, holdMs)));
  },
};

modes[mode](first, second).then((figures) => {
  console.log(JSON.stringify(figures));
  process.exit(0);
});
