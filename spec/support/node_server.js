// The https servers behind node.lua: `node node_server.js PLAN`, a JSON file with a list of sites.
'use strict';

const fs = require('fs');
const https = require('https');
const tls = require('tls');

const plan = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));


function read(path) {
    return path && fs.readFileSync(path);
}


// Of several CRLs in one text, Node would take the first.
function crlsOf(path) {
    return path && fs.readFileSync(path, 'utf8').match(/-----BEGIN[^]*?-----END.*/g);
}


// An unverified certificate says nothing about who is there.
function subjectOf(socket) {
    if (!socket.authorized) {
        return '';
    }
    const subject = socket.getPeerCertificate().subject;
    return `CN=${subject.CN},O=${subject.O}`;
}


function answer(request, response) {
    response.writeHead(request.url === '/echo' ? 200 : 404, {
        'X-Subject': subjectOf(request.socket),
        'X-Protocol': request.socket.getProtocol(),
    });
    response.end();
}


function listen(site) {
    const server = https.createServer({
        cert: read(site.cert),
        key: read(site.key),
        ca: read(site.ca),
        crl: crlsOf(site.crl),
        requestCert: site.verify !== 'none',
        rejectUnauthorized: site.verify === 'require',
        minVersion: site.version || 'TLSv1.2',
        maxVersion: site.version || 'TLSv1.3',
    }, answer);
    server.on('tlsClientError', (error) => console.log(`${site.name}: ${error.message}`));
    return new Promise((resolve) => server.listen(site.port, '127.0.0.1', resolve));
}


process.on('SIGTERM', () => process.exit(0));
console.log(`node ${process.version}, TLS up to ${tls.DEFAULT_MAX_VERSION}`);
Promise.all(plan.map(listen)).then(() => console.log('ready'));
