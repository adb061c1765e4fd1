// Calls to Assay by gRPC-Web, over fetch. protobufjs, loaded by the page, reads the proto files as they are.

/* global protobuf */

const PROTOS = ['embedding.proto', 'evaluation.proto', 'server.proto'].map((file) => `assay/v1/${file}`);
const TRAILERS = 0x80; // the flag of the last frame
const PREFIX = 5; // bytes before each message: a flag, and the length

/** A call that ended with a status other than OK. */
export class CallError extends Error {
  constructor(code, message, fields) {
    super(message);
    this.code = code;
    this.fields = fields;
  }
}

export class Assay {
  /** `url` is that of the proxy, `protos` the directory of the proto files. */
  static async connect(url, protos) {
    const root = new protobuf.Root();
    // google.protobuf comes with protobufjs, whatever the path before it.
    root.resolvePath = (_, file) => `${protos}/${file}`;
    await root.load(PROTOS);
    return new Assay(url, root);
  }

  constructor(url, root) {
    this.url = url;
    this.root = root;
  }

  /** The response of a call. */
  async unary(method, request, options) {
    let response;
    for await (const answer of this.stream(method, [request], options)) response = answer;
    return response;
  }

  /**
   * The answers of a call, as they come. A browser sends all requests first: they are one body, so this is for
   * streams that fit in memory.
   */
  async *stream(method, requests, { timeout = 30_000, signal } = {}) {
    const [service, name] = method.split('/');
    const { resolvedRequestType, resolvedResponseType } = this.root.lookupService(service).methods[name].resolve();
    const response = await fetch(`${this.url}/${method}`, {
      method: 'POST',
      headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1', 'grpc-timeout': `${timeout}m` },
      body: new Blob(requests.map((request) => frame(resolvedRequestType, request))),
      signal: signal ?? AbortSignal.timeout(timeout + 1_000),
    });
    let trailers = response.headers; // where there is no message
    for await (const [flag, bytes] of frames(response.body)) {
      if (flag & TRAILERS) trailers = parseTrailers(bytes);
      else yield resolvedResponseType.toObject(resolvedResponseType.decode(bytes), { enums: String, longs: Number, arrays: true });
    }
    check(response, trailers);
  }
}

function frame(type, request) {
  const bytes = type.encode(type.fromObject(request)).finish();
  const framed = new Uint8Array(PREFIX + bytes.length);
  new DataView(framed.buffer).setUint32(1, bytes.length);
  framed.set(bytes, PREFIX);
  return framed;
}

/** Flag and content of each frame, however the network has cut them. */
async function* frames(body) {
  let rest = new Uint8Array();
  for (const reader = body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    rest = joined(rest, value);
    while (rest.length >= PREFIX) {
      const end = PREFIX + new DataView(rest.buffer, rest.byteOffset).getUint32(1);
      if (rest.length < end) break;
      yield [rest[0], rest.subarray(PREFIX, end)];
      rest = rest.subarray(end);
    }
  }
}

function joined(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

function parseTrailers(bytes) {
  const lines = new TextDecoder().decode(bytes).split('\r\n').filter(Boolean);
  return new Headers(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]));
}

function check(response, trailers) {
  const status = trailers.get('grpc-status');
  if (status === null) throw new CallError(undefined, `no status; HTTP ${response.status}`, []);
  if (status === '0') return;
  const message = decodeURIComponent(trailers.get('grpc-message') ?? '');
  throw new CallError(Number(status), message, badFields(trailers.get('grpc-status-details-bin')));
}

const detail = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { repeated Any details = 3; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
`, { keepCase: true }).root;

/** What the server finds fault with, by google.rpc.BadRequest. */
function badFields(encoded) {
  if (!encoded) return [];
  const bytes = Uint8Array.from(atob(encoded.replace(/-/g, '+').replace(/_/g, '/')), (byte) => byte.charCodeAt(0));
  const { details } = detail.lookupType('Status').decode(bytes);
  const packed = details.find(({ type_url }) => type_url.endsWith('/google.rpc.BadRequest'));
  return packed ? detail.lookupType('BadRequest').decode(packed.value).field_violations.map(({ field }) => field) : [];
}
