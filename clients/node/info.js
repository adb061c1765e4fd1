import assert from 'node:assert/strict';
import { once } from 'node:events';
import grpc from '@grpc/grpc-js';
import { Server, TIMEOUT, unary } from './assay.js';
import { assertSame, MODEL_DIMENSIONS } from './embed.js';

export const infoChecks = {
  'token offsets slice the UTF-8 bytes of the text': async (server) => {
    const text = 'Naïve foxes, 你好!';
    const { results } = await unary(server.embedding, 'Tokenize', { inputs: [text] });
    // A string of JavaScript is UTF-16, so the offsets are those of its bytes.
    const bytes = Buffer.from(text);
    const slices = results[0].tokens.map(({ start, end }) => bytes.subarray(start, end).toString());
    assert.equal(slices.join(''), text.replaceAll(' ', ''));
  },

  'server info describes the model and the limits': async (server) => {
    const info = await server.serverInfo();
    assert.equal(info.warmUp.state, 'STATE_READY');
    assert.equal(info.model.dimensions, MODEL_DIMENSIONS);
    assert.ok(info.model.sha256.length === 64 && info.limits.inputs > 0);
  },

  'every service is serving': async (server) => {
    const services = ['EmbeddingService', 'EvaluationService', 'ServerService'].map((name) => `assay.v1.${name}`);
    for (const service of ['', ...services, 'liveness']) {
      assert.equal((await unary(server.health, 'check', { service })).status, 'SERVING', service);
    }
    await assert.rejects(unary(server.health, 'check', { service: 'nobody' }), { code: grpc.status.NOT_FOUND });
  },

  'a health watch begins with the present state': async (server) => {
    for (const [service, expected] of [['', 'SERVING'], ['nobody', 'SERVICE_UNKNOWN']]) {
      const watch = server.health.watch({ service }, { deadline: Date.now() + TIMEOUT });
      const [{ status }] = await once(watch, 'data');
      assert.equal(status, expected);
      watch.cancel();
      await once(watch, 'error');
    }
  },

  'the request id is echoed': async (server) => {
    const metadata = new grpc.Metadata();
    metadata.set('x-request-id', 'smoke-1');
    const headers = await new Promise((resolve) => {
      const deadline = Date.now() + TIMEOUT;
      const call = server.embedding.Embed({ inputs: ['A red fox.'] }, metadata, { deadline }, () => {});
      call.on('metadata', resolve);
    });
    assert.deepEqual(headers.get('x-request-id'), ['smoke-1']);
  },
};

export const socketChecks = (socket) => ({
  'a unix socket serves the same vectors': async (server) => {
    // The authority of grpc-js for a Unix socket is localhost, so nothing more is to be set.
    const bySocket = new Server(socket);
    assertSame((await bySocket.vectors(['A red fox.']))[0], (await server.vectors(['A red fox.']))[0]);
    bySocket.close();
    return 'as it is';
  },
});
