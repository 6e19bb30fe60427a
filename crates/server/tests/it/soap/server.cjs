// A SOAP server for tests: node-soap, with a calculator that fails on cue.
//
// SETTINGS is JSON: {modules, signers}. The first line that is printed is JSON: {url}, of which the paths
// are /open (nobody is asked who they are), /guarded (UsernameToken of svc and s3cret, as text or
// as a digest whose nonce is new), /open12 (SOAP 1.2), /signed (X.509 signature of body and
// timestamp, answered with the ids that were verified), and, where there are signers, those of
// signed.cjs.
const { createServer } = require('node:http');
const { createHash } = require('node:crypto');
const { createRequire } = require('node:module');

const settings = JSON.parse(process.env.SETTINGS);
const fetch = createRequire(settings.modules + '/node_modules/');
const soap = fetch('soap');
const { SignedXml } = fetch('xml-crypto');
const { DOMParser } = createRequire(fetch.resolve('xml-crypto'))('@xmldom/xmldom');

const wsdl = (url) => `<?xml version="1.0"?>
<definitions name="Calculator" targetNamespace="urn:test:calculator" xmlns="http://schemas.xmlsoap.org/wsdl/"
    xmlns:t="urn:test:calculator" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <types><xs:schema targetNamespace="urn:test:calculator" elementFormDefault="qualified">
    <xs:element name="Add"><xs:complexType><xs:sequence>
      <xs:element name="a" type="xs:int"/><xs:element name="b" type="xs:int" maxOccurs="unbounded"/>
    </xs:sequence></xs:complexType></xs:element>
    <xs:element name="AddResponse"><xs:complexType><xs:sequence>
      <xs:element name="sum" type="xs:long"/><xs:element name="step" type="xs:int" minOccurs="0" maxOccurs="unbounded"/>
    </xs:sequence></xs:complexType></xs:element>
    <xs:element name="Divide"><xs:complexType><xs:sequence>
      <xs:element name="a" type="xs:decimal"/><xs:element name="b" type="xs:decimal"/>
    </xs:sequence></xs:complexType></xs:element>
    <xs:element name="DivideResponse"><xs:complexType><xs:sequence>
      <xs:element name="quotient" type="xs:decimal"/>
    </xs:sequence></xs:complexType></xs:element>
  </xs:schema></types>
  <message name="AddIn"><part name="body" element="t:Add"/></message>
  <message name="AddOut"><part name="body" element="t:AddResponse"/></message>
  <message name="DivideIn"><part name="body" element="t:Divide"/></message>
  <message name="DivideOut"><part name="body" element="t:DivideResponse"/></message>
  <portType name="CalculatorPort">
    <operation name="Add"><documentation>Adds numbers</documentation><input message="t:AddIn"/><output message="t:AddOut"/></operation>
    <operation name="Divide"><input message="t:DivideIn"/><output message="t:DivideOut"/></operation>
  </portType>
  <binding name="CalculatorBinding" type="t:CalculatorPort">
    <soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
    <operation name="Add"><soap:operation soapAction="urn:test:calculator#Add"/>
      <input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation>
    <operation name="Divide"><soap:operation soapAction="urn:test:calculator#Divide"/>
      <input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation>
  </binding>
  <service name="Calculator"><port name="CalculatorPort" binding="t:CalculatorBinding"><soap:address location="${url}"/></port></service>
</definitions>`;

const list = (value) => [].concat(value).map(Number);
const port = {
  Add: ({ a, b }) => ({ sum: list(b).reduce((x, y) => x + y, Number(a)), step: list(b) }),
  Divide: ({ a, b }) => {
    if (Number(b) !== 0) return { quotient: Number(a) / Number(b) };
    throw {
      Fault: {
        faultcode: 'soap:Client', faultstring: 'division by zero', statusCode: 500,
        Code: { Value: 'soap:Sender' }, Reason: { Text: 'division by zero' },
        detail: { DivisionByZero: { a } }, Detail: { DivisionByZero: { a } },
      },
    };
  },
};
const services = { Calculator: { CalculatorPort: port } };

const nonces = new Set();
const isKnown = ({ UsernameToken: token } = {}) => {
  if (!token || token.Username !== 'svc') return false;
  const given = token.Password.$value ?? token.Password;
  if (!token.Password.attributes?.Type.endsWith('#PasswordDigest')) return given === 's3cret';
  const nonce = token.Nonce.$value ?? token.Nonce;
  if (nonces.has(nonce) || Math.abs(Date.now() - Date.parse(token.Created)) > 60_000) return false;
  nonces.add(nonce);
  const digest = createHash('sha1').update(Buffer.from(nonce, 'base64')).update(token.Created).update('s3cret');
  return given === digest.digest('base64');
};

// What a signature covers, by another implementation of XML Signature.
const verified = (text) => {
  const find = (name) => new DOMParser().parseFromString(text, 'text/xml').getElementsByTagName(name)[0];
  const pem = `-----BEGIN CERTIFICATE-----\n${find('wsse:BinarySecurityToken').textContent}\n-----END CERTIFICATE-----`;
  const signature = new SignedXml({ publicCert: pem, idMode: 'wssecurity' });
  signature.loadSignature(find('ds:Signature'));
  if (!signature.checkSignature(text)) throw new Error('the signature does not fit');
  return signature.getSignedReferences().map((part) => /^<[a-z]+:([A-Za-z]+)/.exec(part)[1]);
};
const answer = (body) => `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>${body}</s:Body></s:Envelope>`;
const others = {
  '/signed': (request, response, text) => {
    try {
      const parts = verified(text).map((name) => `<part>${name}</part>`).join('');
      response.writeHead(200, { 'content-type': 'text/xml' }).end(answer(`<AddResponse>${parts}</AddResponse>`));
    } catch (error) {
      const fault = `<s:Fault><faultcode>s:Client</faultcode><faultstring>${error.message}</faultstring></s:Fault>`;
      response.writeHead(500, { 'content-type': 'text/xml' }).end(answer(fault));
    }
  },
};

if (settings.signers) Object.assign(others, require('./signed.cjs').answers(SignedXml, settings.signers));

const server = createServer((request, response) => {
  const act = others[request.url];
  if (!act) return response.writeHead(404).end();
  let text = '';
  request.on('data', (chunk) => { text += chunk; }).on('end', () => act(request, response, text));
});
server.listen(0, '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  soap.listen(server, '/open', services, wsdl(`${url}/open`));
  soap.listen(server, { path: '/open12', services, xml: wsdl(`${url}/open12`), forceSoap12Headers: true });
  soap.listen(server, '/guarded', services, wsdl(`${url}/guarded`)).authenticate = isKnown;
  console.log(JSON.stringify({ url }));
});
