// TLS, tokens and client certificates.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import grpc from '@grpc/grpc-js';
import { detail, Server, statusOf } from './assay.js';
import { dot } from './embed.js';

const UNAVAILABLE = { code: grpc.status.UNAVAILABLE };

/** Both servers have a certificate and want a token; `mutual` wants a client's certificate, too. */
export const tlsChecks = ({ tls, mutual, directory }) => {
  const read = (name) => readFileSync(join(directory, name));
  const key = read('client.key');
  const certificate = read('client.pem');
  const trusting = grpc.credentials.createSsl(read('ca.pem'));
  const showing = grpc.credentials.createSsl(read('ca.pem'), key, certificate);
  const distrusting = grpc.credentials.createSsl(read('other-ca.pem'));
  const token = bearer(read('token').toString().trim());
  const and = (channel, call) => grpc.credentials.combineChannelCredentials(channel, call);

  return {
    'a token lets a call in': async () => {
      await embed(tls, and(trusting, token));
      await checkTokenMissing(embed(tls, trusting));
      await assert.rejects(embed(tls, and(distrusting, token)), UNAVAILABLE);
      return 'OK; without it UNAUTHENTICATED; another authority: UNAVAILABLE';
    },

    'a client certificate lets a call in': async () => {
      await embed(mutual, and(showing, token));
      await checkTokenMissing(embed(mutual, showing));
      await assert.rejects(embed(mutual, and(trusting, token)), UNAVAILABLE);
      return 'OK; without it UNAVAILABLE';
    },
  };
};

/** Sends the token with each call; grpc-js combines it with the credentials of TLS alone. */
function bearer(token) {
  return grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    done(null, metadata);
  });
}

/** One call over a channel of its own. */
async function embed(address, credentials) {
  const server = new Server(address, {}, credentials);
  try {
    const [vector] = await server.vectors(['A red fox.']);
    assert.ok(Math.abs(Math.sqrt(dot(vector, vector)) - 1) < 1e-5);
  } finally {
    server.close();
  }
}

async function checkTokenMissing(call) {
  await assert.rejects(call, (error) => {
    assert.equal(error.code, grpc.status.UNAUTHENTICATED, error);
    assert.equal(detail(statusOf(error), 'ErrorInfo').reason, 'TOKEN_MISSING');
    return true;
  });
}
