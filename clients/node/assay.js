// The services of Assay, read from the proto files, with calls that give promises.

import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { service as healthService } from 'grpc-health-check';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

const definition = protoLoader.loadSync(
  [
    'assay/v1/embedding.proto',
    'assay/v1/evaluation.proto',
    'assay/v1/server.proto',
    'google/rpc/status.proto',
    'google/rpc/error_details.proto',
  ],
  // With oneofs and without a value, an optional field is not there at all.
  { includeDirs: [path('../../proto'), path('proto')], longs: Number, enums: String, defaults: true, oneofs: true },
);
const services = grpc.loadPackageDefinition(definition).assay.v1;
const Health = grpc.makeClientConstructor(healthService, 'Health');

export const TIMEOUT = 60_000; // milliseconds; every call has one
export const SERVICE_CONFIG = readFileSync(path('../service_config.json'), 'utf8');

/** The clients of one channel, without TLS unless there are credentials. */
export class Server {
  constructor(address, options = {}, credentials = grpc.credentials.createInsecure()) {
    const clients = [services.EmbeddingService, services.EvaluationService, services.ServerService, Health];
    [this.embedding, this.evaluation, this.info, this.health] = clients.map(
      (Client) => new Client(address, credentials, options),
    );
  }

  async vectors(inputs, options = {}) {
    const response = await unary(this.embedding, 'Embed', { inputs, options });
    return response.embeddings.map((embedding) => embedding.values);
  }

  async serverInfo() {
    return unary(this.info, 'GetServerInfo', {});
  }

  close() {
    for (const client of [this.embedding, this.evaluation, this.info, this.health]) client.close();
  }
}

/** The response of a call, or the grpc.ServiceError that it ended with. */
export function unary(client, method, request, { timeout = TIMEOUT, metadata = new grpc.Metadata() } = {}) {
  return new Promise((resolve, reject) => {
    const done = (error, response) => (error ? reject(error) : resolve(response));
    client[method](request, metadata, { deadline: Date.now() + timeout }, done);
  });
}

/** All answers of a stream. Requests are sent while answers are read, no faster than the server takes them. */
export async function bidirectional(client, method, requests, { timeout = TIMEOUT } = {}) {
  const call = client[method]({ deadline: Date.now() + timeout });
  const answers = [];
  await pipeline(Readable.from(requests), call, async (stream) => {
    for await (const answer of stream) answers.push(answer);
  });
  return answers;
}

/** The google.rpc.Status of a failed call. */
export function statusOf(error) {
  const [packed] = error.metadata.get('grpc-status-details-bin');
  return definition['google.rpc.Status'].deserialize(packed);
}

/** The detail of a google.rpc.Status by its name, such as BadRequest; undefined where there is none. */
export function detail(status, name) {
  const packed = status.details.find((any) => any.type_url === `type.googleapis.com/google.rpc.${name}`);
  return packed && definition[`google.rpc.${name}`].deserialize(packed.value);
}
