import assert from 'node:assert/strict';
import { unary } from './assay.js';
import { assertSame, MODEL_DIMENSIONS } from './embed.js';

/** The numbers of an embedding in any encoding; of BINARY, 1 for numbers above 0 and else 0. */
export function decode({ values, raw, scale }, encoding, dimensions) {
  // raw is a Buffer, which may begin anywhere in its memory; the bytes are little-endian, whatever this machine is.
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const read = {
    ENCODING_FLOAT32_BYTES: (i) => view.getFloat32(4 * i, true),
    ENCODING_FLOAT16_BYTES: (i) => float16(view.getUint16(2 * i, true)),
    ENCODING_INT8_BYTES: (i) => view.getInt8(i) * scale,
    ENCODING_BINARY_BYTES: (i) => (raw[i >> 3] >> (7 - (i & 7))) & 1,
  }[encoding];
  return read ? Array.from({ length: dimensions }, (_, i) => read(i)) : values;
}

/** Reads an IEEE 754 number of 16 bits: sign, 5 bits of exponent, 10 of fraction. Newer engines have getFloat16. */
function float16(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

async function checkBytes(server, encoding, values, numberBits) {
  const request = { inputs: ['A red fox.'], options: { encoding } };
  const [embedding] = (await unary(server.embedding, 'Embed', request)).embeddings;
  assert.equal(embedding.values.length, 0);
  assert.equal(embedding.raw.length, (MODEL_DIMENSIONS * numberBits) / 8);
  const decoded = decode(embedding, encoding, MODEL_DIMENSIONS);
  if (encoding === 'ENCODING_BINARY_BYTES') {
    // A number that is all but zero may fall on either side of it.
    values.forEach((value, i) => assert.ok(Math.abs(value) < 1e-5 || value > 0 === (decoded[i] === 1), `bit ${i}`));
    return;
  }
  const tolerance = { ENCODING_FLOAT16_BYTES: 2e-4, ENCODING_INT8_BYTES: embedding.scale / 2 + 1e-5 };
  assertSame(decoded, values, tolerance[encoding]);
}

export const encodingChecks = {
  'bytes of every encoding hold the values': async (server) => {
    const [values] = await server.vectors(['A red fox.']);
    await checkBytes(server, 'ENCODING_FLOAT32_BYTES', values, 32);
    await checkBytes(server, 'ENCODING_FLOAT16_BYTES', values, 16);
    await checkBytes(server, 'ENCODING_INT8_BYTES', values, 8);
    await checkBytes(server, 'ENCODING_BINARY_BYTES', values, 1);
    return 'f32, f16, int8, bits';
  },
};
