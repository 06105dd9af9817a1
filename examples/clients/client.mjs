// A small larder client on fetch alone (browser, Node 18 and newer, Deno), with a session that shows it.
// Usage: node client.mjs [http://127.0.0.1:8080]     (a token goes into LARDER_TOKEN)

export class LarderError extends Error {
  constructor(status, problem) {
    super(`${status} ${problem.code}: ${problem.message}`);
    this.status = status;
    this.code = problem.code;
    this.written = problem.written; // "no": safe to repeat; "unknown": read first
  }
}

export class Larder {
  constructor(url = 'http://127.0.0.1:8080', token = undefined) {
    this.url = url.replace(/\/$/, '');
    this.token = token;
  }

  async call(method, path, { body, headers = {}, tries = 4 } = {}) {
    const fields = { ...headers, ...(this.token ? { Authorization: `Bearer ${this.token}` } : {}) };
    for (let attempt = 1; ; attempt++) {
      const answer = await fetch(this.url + path, { method, body, headers: fields });
      if (answer.ok) return answer;
      // 429 and 503 say that nothing was written, and when to come again.
      if ((answer.status === 429 || answer.status === 503) && attempt < tries) {
        await new Promise((done) => setTimeout(done, 1000 * Number(answer.headers.get('Retry-After') ?? 1)));
        continue;
      }
      throw new LarderError(answer.status, await answer.json().catch(() => ({})));
    }
  }

  path(namespace, collection, key) {
    return `/api/v1/kv/${namespace}/${collection}/${encodeURIComponent(key)}`;
  }

  // { value, tag }, or undefined if there is nothing.
  async get(namespace, collection, key) {
    try {
      const answer = await this.call('GET', this.path(namespace, collection, key));
      return { value: await answer.json(), tag: answer.headers.get('ETag').replace('-gzip"', '"') };
    } catch (error) {
      if (error.status === 404) return undefined;
      throw error;
    }
  }

  async put(namespace, collection, key, value, { tag, ifAbsent, ttl } = {}) {
    const headers = { 'Content-Type': 'application/json' };
    if (tag) headers['If-Match'] = tag;
    if (ifAbsent) headers['If-None-Match'] = '*';
    const query = ttl ? `?ttl=${ttl}` : '';
    const answer = await this.call('PUT', this.path(namespace, collection, key) + query, {
      body: JSON.stringify(value),
      headers,
    });
    return answer.headers.get('ETag');
  }

  // Reads, changes, writes back, and starts again if somebody else was quicker.
  async update(namespace, collection, key, change) {
    for (;;) {
      const found = await this.get(namespace, collection, key);
      try {
        return await this.put(namespace, collection, key, change(found?.value), { tag: found?.tag, ifAbsent: !found });
      } catch (error) {
        if (error.status !== 412) throw error;
      }
    }
  }

  async delete(namespace, collection, key) {
    await this.call('DELETE', this.path(namespace, collection, key));
  }

  async *list(namespace, collection, query = {}) {
    let cursor;
    do {
      const text = new URLSearchParams({ ...query, ...(cursor ? { cursor } : {}) });
      const page = await (await this.call('GET', `/api/v1/kv/${namespace}/${collection}?${text}`)).json();
      yield* page.items;
      cursor = page.next;
    } while (cursor);
  }
}

if (globalThis.process?.argv?.[1]?.endsWith('client.mjs')) {
  const larder = new Larder(process.argv[2], process.env.LARDER_TOKEN);
  await larder.put('demo', 'js', 'lamp', { on: true });
  await larder.update('demo', 'js', 'lamp', (lamp) => ({ ...lamp, watts: 7 }));
  console.log('lamp:', JSON.stringify((await larder.get('demo', 'js', 'lamp')).value));
  const keys = [];
  for await (const item of larder.list('demo', 'js')) keys.push(item.key);
  console.log('keys:', keys.join(' '));
  await larder.delete('demo', 'js', 'lamp');
}
