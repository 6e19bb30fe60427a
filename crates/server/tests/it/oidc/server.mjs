// An authorization server for tests: the certified `oidc-provider`, which enforces PKCE,
// rotates refresh tokens and revokes a grant whose old one is used again.
//
// SETTINGS is JSON: {modules, callback, tokenSeconds}. The first line that is printed is JSON:
// {issuer, privateKey}, the latter the PEM key of the client `keyed`.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const settings = JSON.parse(process.env.SETTINGS);
const resolve = createRequire(settings.modules + '/').resolve;
const { default: Provider } = await import(pathToFileURL(resolve('oidc-provider')).href);

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const clientKey = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const serverKey = generateKeyPairSync('rsa', { modulusLength: 2048 });
const secret = 'a-secret-for-tests-only-0123456789abcdef';
const refreshing = ['authorization_code', 'refresh_token'];
const audience = 'https://api.example.test';

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...serverKey.privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'server' }] },
  cookies: { keys: ['cookies of tests'] },
  clients: [
    { client_id: 'basic', client_secret: secret, redirect_uris: [settings.callback], grant_types: refreshing },
    { client_id: 'public', redirect_uris: [settings.callback], grant_types: refreshing, token_endpoint_auth_method: 'none' },
    {
      client_id: 'keyed', redirect_uris: [], response_types: [], grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256',
      jwks: { keys: [{ ...clientKey.publicKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'client-key' }] },
    },
    {
      client_id: 'device', redirect_uris: [], response_types: [], token_endpoint_auth_method: 'none',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
    },
  ],
  scopes: ['openid', 'offline_access', 'api:read'],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'api:read', audience, accessTokenTTL: settings.tokenSeconds }),
    },
  },
  ttl: { AccessToken: settings.tokenSeconds, ClientCredentials: settings.tokenSeconds, RefreshToken: 3600 },
});
server.on('request', provider.callback());
console.log(JSON.stringify({ issuer, privateKey: clientKey.privateKey.export({ format: 'pem', type: 'pkcs8' }) }));
