// Serves the page, protobufjs and the proto files on loopback, and nothing else.
//
//   node serve.js [PORT]

import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

const FILES = {
  '/': ['index.html', 'text/html'],
  '/page.js': ['page.js', 'text/javascript'],
  '/assay.js': ['assay.js', 'text/javascript'],
  '/protobuf.js': ['node_modules/protobufjs/dist/protobuf.min.js', 'text/javascript'],
};
for (const proto of ['assay/v1/embedding', 'assay/v1/evaluation', 'assay/v1/server', 'google/rpc/status']) {
  FILES[`/proto/${proto}.proto`] = [`../../proto/${proto}.proto`, 'text/plain'];
}

/** A server that listens. */
export function serve(port) {
  const server = createServer((request, response) => {
    const [file, type] = FILES[new URL(request.url, 'http://page').pathname] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': `${type}; charset=utf-8` });
    createReadStream(fileURLToPath(new URL(file, import.meta.url))).pipe(response);
  });
  return new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = await serve(Number(process.argv[2] ?? 8081));
  console.log(`http://127.0.0.1:${server.address().port}/`);
}
