// What a channel does by itself with ../service_config.json: calls made again, replicas.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import grpc from '@grpc/grpc-js';
import { detail, Server, SERVICE_CONFIG, statusOf, unary } from './assay.js';
import { evaluate, named, SAMPLE } from './evaluate.js';

const PUSHBACK = 1_000; // milliseconds; what a server asks for that evaluates as much as it may
const CALLS = 24;
const OPTIONS = { 'grpc.service_config': SERVICE_CONFIG };

/** The last address is NOT_SERVING. */
export const channelChecks = ({ address, judged, full, cold }) => ({
  'a refused call is made again when the server says': async (server) => {
    const again = new Server(full, OPTIONS);
    // Connect before time counts.
    await again.serverInfo();
    const events = await occupy(server);
    await checkRefusal(server);
    const before = performance.now();
    const response = await evaluate(again, ['token_f1']);
    const waited = performance.now() - before;
    events.cancel();
    again.close();
    assert.ok(response.results[0].score > 0);
    // By itself it would have come again after a tenth of that.
    assert.ok(waited >= 0.95 * PUSHBACK, `${waited} ms`);
    return 'RESOURCE_EXHAUSTED, OK after its 1 s';
  },

  'calls go round the replicas': async () => {
    assert.deepEqual(await answers([address, judged]), [CALLS / 2, CALLS / 2]);
    return `${CALLS / 2} and ${CALLS / 2} calls`;
  },

  // grpc-js takes healthCheckConfig and does nothing with it. GetServerInfo is answered at all times.
  'a replica that does not serve gets calls, without health checking': async () => {
    assert.deepEqual(await answers([address, judged, cold]), [CALLS / 3, CALLS / 3, CALLS / 3]);
    return `not in this library: ${CALLS / 3} calls of ${CALLS}`;
  },

  'what a replica refuses that does not serve is answered by another': async () => {
    const replicas = connect([address, judged, cold]);
    const vectors = await Promise.all(Array.from({ length: 12 }, () => replicas.vectors(['A red fox.'])));
    replicas.close();
    assert.equal(vectors.length, 12);
  },
});

/** Gives the server a sample that keeps it busy for three seconds, or until the stream is cancelled. */
async function occupy(server) {
  const events = server.evaluation.EvaluateStream({ deadline: Date.now() + 3_000 });
  events.on('error', () => {});
  const request = { sample: SAMPLE, metrics: named('token_f1', 'faithfulness'), options: { judge: 'slow' } };
  events.write({ request });
  // The first event is the metric that needs no judge.
  const [{ result }] = await once(events, 'data');
  assert.equal(result.metric, 'token_f1');
  return events;
}

async function checkRefusal(server) {
  const error = await evaluate(server, ['token_f1']).catch((error) => error);
  assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED);
  assert.equal(detail(statusOf(error), 'RetryInfo').retryDelay.seconds, PUSHBACK / 1_000);
  assert.deepEqual(error.metadata.get('grpc-retry-pushback-ms'), [String(PUSHBACK)]);
}

/** In place of DNS, which gives all addresses of a headless Service. */
function connect(addresses) {
  return new Server(`ipv4:${addresses.join(',')}`, OPTIONS);
}

/** How many calls each server answered. */
async function answers(addresses) {
  const replicas = connect(addresses);
  const started = async () => JSON.stringify((await replicas.serverInfo()).startTime);
  // The first calls go to whatever is connected first.
  const seen = new Set();
  while (seen.size < addresses.length) seen.add(await started());
  const counts = new Map();
  for (let call = 0; call < CALLS; call++) {
    const server = await started();
    counts.set(server, (counts.get(server) ?? 0) + 1);
  }
  replicas.close();
  return [...counts.values()];
}
