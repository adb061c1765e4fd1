import { Server, unary } from './assay.js';

const server = new Server(process.argv[2] ?? '127.0.0.1:50051');
const request = { inputs: ['A red fox.', '今天天气很好。'] };
const { embeddings } = await unary(server.embedding, 'Embed', request, { timeout: 10_000 });
for (const { values } of embeddings) console.log(values.length, 'numbers:', values.slice(0, 3), '...');
server.close();
