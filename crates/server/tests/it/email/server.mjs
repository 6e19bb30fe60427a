// A mail server for tests: `smtp-server`, which keeps each message that it takes as a file.
//
// SETTINGS is JSON: {modules, folder, secure, starttls, login, mechanisms, key, certificate, size}.
// The first line that is printed is JSON: {port}. Recipients whose address begins with `gone`
// are rejected for good, with `full` for now; a subject with `spam` has the message refused,
// with `busy` refused for now. Messages are parsed by `mailparser`.
import { createRequire } from 'node:module';
import { readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const settings = JSON.parse(process.env.SETTINGS);
const require = createRequire(settings.modules + '/');
const { SMTPServer } = require('smtp-server');
const { simpleParser } = require('mailparser');

const refusal = (code, text) => Object.assign(new Error(text), { responseCode: code });
let connections = 0;

const server = new SMTPServer({
  secure: settings.secure,
  hideSTARTTLS: !settings.starttls,
  key: settings.key, cert: settings.certificate,
  authOptional: !settings.login,
  authMethods: settings.mechanisms ?? ['PLAIN', 'LOGIN', 'XOAUTH2'],
  allowInsecureAuth: true,
  size: settings.size,
  hideSMTPUTF8: false,
  onConnect(session, done) {
    connections += 1;
    done();
  },
  onAuth({ method, username, password, accessToken }, session, done) {
    const secret = method === 'XOAUTH2' ? accessToken : password;
    if (username === 'busy') return done(refusal(454, '4.7.0 Try again later'));
    if (username === 'sender' && secret === 'right-secret') return done(null, { user: method });
    // Some servers repeat what they were told.
    const fault = refusal(535, `5.7.8 ${secret} is wrong`);
    return method === 'XOAUTH2' ? done(null, { data: { status: '401', schemes: 'bearer' } }) : done(fault);
  },
  onMailFrom({ address }, session, done) {
    done(address.startsWith('nobody') ? refusal(550, '5.7.1 Sender not allowed') : null);
  },
  onRcptTo({ address }, session, done) {
    if (address.startsWith('gone')) return done(refusal(550, '5.1.1 No such user'));
    if (address.startsWith('full')) return done(refusal(452, '4.2.2 Mailbox full'));
    done();
  },
  onData(stream, session, done) {
    const chunks = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('end', async () => {
      const raw = Buffer.concat(chunks);
      const mail = await simpleParser(raw, { skipHtmlToText: true, skipTextToHtml: true });
      if (mail.subject?.includes('spam')) return done(refusal(554, '5.7.1 Looks like spam'));
      if (mail.subject?.includes('busy')) return done(refusal(451, '4.3.0 Try again later'));
      const number = String(readdirSync(settings.folder).length).padStart(4, '0');
      const kept = {
        envelope: { from: session.envelope.mailFrom.address, to: session.envelope.rcptTo.map((one) => one.address) },
        user: session.user, secure: session.secure, connections,
        headers: mail.headerLines.map(({ line }) => line),
        subject: mail.subject, from: mail.from?.value, to: mail.to?.value, cc: mail.cc?.value, replyTo: mail.replyTo?.value,
        messageId: mail.messageId, text: mail.text, html: mail.html,
        attachments: mail.attachments.map((one) => ({
          filename: one.filename, contentType: one.contentType, cid: one.cid, related: one.related,
          content: one.content.toString('base64'),
        })),
        raw: raw.toString('latin1'),
      };
      const file = join(settings.folder, `${number}.json`);
      writeFileSync(`${file}.part`, JSON.stringify(kept));
      renameSync(`${file}.part`, file);
      done(null, '2.0.0 Ok: kept as ' + number);
    });
  },
});
server.on('error', () => {});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.server.address().port })));
