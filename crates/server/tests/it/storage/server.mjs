// A real server of objects for tests: s3rver or Azurite, each with a bucket `files`.
//
// SETTINGS is JSON: {modules, provider, folder}. The first line that is printed is JSON: {url}.
import { createHmac } from 'node:crypto';
import { createRequire } from 'node:module';

const { modules, provider, folder } = JSON.parse(process.env.SETTINGS);
const require = createRequire(modules + '/');

if (provider === 's3') {
  // Its one key: S3RVER with the secret S3RVER.
  const S3rver = require('s3rver');
  const server = new S3rver({
    port: 0, address: '127.0.0.1', silent: true, directory: folder, configureBuckets: [{ name: 'files' }],
  });
  const { port } = await server.run();
  console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }));
} else {
  const say = console.log;
  const listening = new Promise((resolve) => {
    console.log = (line) => {
      const url = /successfully listens on (\S+)/.exec(line)?.[1];
      if (url) resolve(url);
    };
  });
  process.argv.push('--blobPort', '0', '--disableTelemetry', '--silent', '--location', folder);
  require('azurite/dist/src/blob/main.js');
  const url = `${await listening}/devstoreaccount1`;
  // The account that every Azurite has, and its published key.
  const key = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==';
  const headers = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': '2021-12-02' };
  const text = `PUT${'\n'.repeat(12)}x-ms-date:${headers['x-ms-date']}\nx-ms-version:2021-12-02\n` +
    '/devstoreaccount1/devstoreaccount1/files\nrestype:container';
  const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
  const made = await fetch(`${url}/files?restype=container`, {
    method: 'PUT', headers: { ...headers, authorization: `SharedKey devstoreaccount1:${signature}` },
  });
  if (made.status !== 201) throw new Error(await made.text());
  say(JSON.stringify({ url }));
}
