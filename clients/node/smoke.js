// Every feature of a running server, used and checked. Each check is an example of its own.
//
//   node smoke.js ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY
//
// The first two are one server. JUDGED has the judge of ../judge.py, and under the name "slow" one that takes its time;
// FULL has the same and evaluates one sample at a time; COLD has no model yet. TLS has a certificate and wants a token,
// MUTUAL wants a client's certificate, too; DIRECTORY is that of ../certificates.sh.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Server } from './assay.js';
import { channelChecks } from './channel.js';
import { embedChecks } from './embed.js';
import { encodingChecks } from './encoding.js';
import { errorChecks } from './errors.js';
import { judgedChecks, unjudgedChecks } from './evaluate.js';
import { infoChecks, socketChecks } from './info.js';
import { streamChecks } from './stream.js';
import { tlsChecks } from './tls.js';

/** Runs all checks against one server; true where all passed. What a check returns is what it saw. */
async function runAll(address, checks) {
  const server = new Server(address);
  let passed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      const seen = await check(server);
      console.log(`ok      ${name}${seen ? `: ${seen}` : ''}`);
      passed += 1;
    } catch (error) {
      console.log(`FAILED  ${name}:`, error);
    }
  }
  server.close();
  const count = Object.keys(checks).length;
  console.log(`${passed} of ${count} passed`);
  return passed === count;
}

function libraryVersion() {
  const file = fileURLToPath(import.meta.resolve('@grpc/grpc-js/package.json'));
  return JSON.parse(readFileSync(file, 'utf8')).version;
}

const NAMES = 'ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY';
if (process.argv.length !== 10) {
  console.error(`usage: node smoke.js ${NAMES}`);
  process.exit(64);
}
const [address, socket, judged, full, cold, tls, mutual, directory] = process.argv.slice(2);
console.log('library grpc-js', libraryVersion());
const results = [
  await runAll(address, {
    ...embedChecks,
    ...encodingChecks,
    ...streamChecks,
    ...errorChecks,
    ...infoChecks,
    ...unjudgedChecks,
    ...socketChecks(socket),
  }),
  await runAll(judged, judgedChecks),
  await runAll(full, channelChecks({ address, judged, full, cold })),
  await runAll(address, tlsChecks({ tls, mutual, directory })),
];
process.exitCode = results.every(Boolean) ? 0 : 1;
