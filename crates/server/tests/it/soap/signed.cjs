// Answers signed by another implementation of XML Signature, and what is wrong with some of them.
//
// The signers are {rsa, ecdsa, other}, each {key, certificate} in PEM. The paths are
// /answers/{rsa, ecdsa, inclusive, fault} (as they should be) and /answers/{unsigned, altered,
// wrapped, expired, other, sha1, body-only} (as they should not).
const { createSign, createVerify } = require('node:crypto');

const SECURITY = 'http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-';
const EXCLUSIVE = 'http://www.w3.org/2001/10/xml-exc-c14n#';
const SHA256 = 'http://www.w3.org/2001/04/xmlenc#sha256';
const MORE = 'http://www.w3.org/2001/04/xmldsig-more#';

/** ECDSA as XML Signature has it: both numbers, one after the other. */
class EcdsaSha256 {
  getSignature(info, key) {
    return createSign('SHA256').update(info).sign({ key, dsaEncoding: 'ieee-p1363' }, 'base64');
  }
  verifySignature(info, key, value) {
    return createVerify('SHA256').update(info).verify({ key, dsaEncoding: 'ieee-p1363' }, value, 'base64');
  }
  getAlgorithmName() {
    return `${MORE}ecdsa-sha256`;
  }
}

exports.answers = (SignedXml, signers) => {
  const envelope = (body, created) => {
    const at = (seconds) => new Date(created.getTime() + seconds * 1000).toISOString();
    return `<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/" xmlns="urn:test:calculator" xmlns:wsu="${SECURITY}utility-1.0.xsd" xmlns:x="urn:x">
  <S:Header>
    <o:Security xmlns:o="${SECURITY}secext-1.0.xsd" S:mustUnderstand="1">
      <wsu:Timestamp wsu:Id="TS-1"><wsu:Created>${at(0)}</wsu:Created><wsu:Expires>${at(300)}</wsu:Expires></wsu:Timestamp>
    </o:Security>
  </S:Header>
  <S:Body wsu:Id="id-2">${body}</S:Body>
</S:Envelope>`;
  };
  const sign = (text, { signer = signers.rsa, algorithm = `${MORE}rsa-sha256`, parts = ['Timestamp', 'Body'], inclusive }) => {
    const signature = new SignedXml({
      privateKey: signer.key, publicCert: signer.certificate, idMode: 'wssecurity',
      signatureAlgorithm: algorithm, canonicalizationAlgorithm: EXCLUSIVE,
    });
    signature.SignatureAlgorithms[`${MORE}ecdsa-sha256`] = EcdsaSha256;
    signature.SignatureAlgorithms['http://www.w3.org/2000/09/xmldsig#rsa-sha1'] ??= class extends EcdsaSha256 {
      getSignature(info, key) { return createSign('SHA1').update(info).sign(key, 'base64'); }
      getAlgorithmName() { return 'http://www.w3.org/2000/09/xmldsig#rsa-sha1'; }
    };
    for (const part of parts) {
      signature.addReference({
        xpath: `//*[local-name(.)='${part}']`, transforms: [EXCLUSIVE], digestAlgorithm: SHA256,
        inclusiveNamespacesPrefixList: inclusive,
      });
    }
    signature.computeSignature(text, { prefix: 'ds', location: { reference: "//*[local-name(.)='Security']" } });
    return signature.getSignedXml();
  };
  const sum = (number) => `<AddResponse>\r\n    <sum>${number}</sum><!-- so many -->\r\n  </AddResponse>`;
  const fault = '<S:Fault><faultcode xmlns="">S:Client</faultcode><faultstring xmlns="">no such number</faultstring></S:Fault>';
  const fresh = (body = sum(3)) => envelope(body, new Date());
  const made = {
    rsa: () => sign(fresh(), {}),
    ecdsa: () => sign(fresh(), { signer: signers.ecdsa, algorithm: `${MORE}ecdsa-sha256` }),
    inclusive: () => sign(fresh(), { inclusive: ['x', 'S'] }),
    fault: () => sign(fresh(fault), {}),
    unsigned: () => fresh(),
    altered: () => sign(fresh(), {}).replace('<sum>3', '<sum>4'),
    wrapped: () => {
      const text = sign(fresh(), {});
      const body = /<S:Body.*<\/S:Body>/s.exec(text)[0];
      return text.replace(body, `<S:Body>${sum(4)}</S:Body>`).replace('</S:Header>', `<x:Old>${body}</x:Old></S:Header>`);
    },
    expired: () => sign(envelope(sum(3), new Date(Date.now() - 3_600_000)), {}),
    other: () => sign(fresh(), { signer: signers.other }),
    sha1: () => sign(fresh(), { algorithm: 'http://www.w3.org/2000/09/xmldsig#rsa-sha1' }),
    'body-only': () => sign(fresh(), { parts: ['Body'] }),
  };
  return Object.fromEntries(Object.entries(made).map(([name, make]) => [`/answers/${name}`, (request, response) => {
    response.writeHead(name === 'fault' ? 500 : 200, { 'content-type': 'text/xml' }).end(make());
  }]));
};
