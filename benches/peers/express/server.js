// A key-value server as many small appliances have one: Express, a Map, and a JSON file.
//
// It answers a write at once and saves the whole Map every second if it changed (temporary file, sync, rename): the
// usual compromise, since saving all of it for each write is hopeless. So it knows relaxed writes only.
'use strict';
const express = require('express');
const fs = require('fs');
const path = require('path');

const folder = process.argv[2];
const port = Number(process.argv[3] || 0);
const file = path.join(folder, 'data.json');
const values = new Map();
let changed = false;

fs.mkdirSync(folder, { recursive: true });
if (fs.existsSync(file)) {
  for (const [key, value] of Object.entries(JSON.parse(fs.readFileSync(file, 'utf8')))) {
    values.set(key, Buffer.from(value, 'base64'));
  }
}

async function save() {
  if (changed) {
    changed = false;
    const copy = {};
    for (const [key, value] of values) copy[key] = value.toString('base64');
    const handle = await fs.promises.open(file + '.tmp', 'w');
    await handle.writeFile(JSON.stringify(copy));
    await handle.sync();
    await handle.close();
    await fs.promises.rename(file + '.tmp', file);
  }
  setTimeout(save, 1000);
}
setTimeout(save, 1000);
process.on('SIGTERM', () => save().then(() => process.exit(0)));

const app = express();
app.disable('x-powered-by');
app.get('/kv/:key', (request, response) => {
  const value = values.get(request.params.key);
  if (value === undefined) return response.sendStatus(404);
  response.type('application/octet-stream').send(value);
});
app.put('/kv/:key', express.raw({ type: () => true, limit: '1mb' }), (request, response) => {
  values.set(request.params.key, Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0));
  changed = true;
  response.status(204).end();
});
app.post('/batch', express.json({ limit: '4mb' }), (request, response) => {
  for (const { key, value } of request.body.operations) values.set(key, Buffer.from(JSON.stringify(value)));
  changed = true;
  response.json({ written: request.body.operations.length });
});
app.get('/kv', (request, response) => {
  const start = request.query.start || '';
  const limit = Number(request.query.limit || 100);
  const keys = [...values.keys()].filter((key) => key >= start).sort().slice(0, limit);
  response.json({ items: keys.map((key) => ({ key, size: values.get(key).length })) });
});
const server = app.listen(port, '127.0.0.1', () => {
  console.log('listening on http://127.0.0.1:' + server.address().port);
});
