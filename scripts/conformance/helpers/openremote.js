// What open-remote-ssh does, through npm's ssh2, against C_HOST:C_PORT. Usage: node openremote.js DIR PEER
// Sources: src/serverSetup.ts (uname, then one exec of bash -c with the whole script, its result between markers) and
// src/ssh/sshConnection.ts (forwardOut or openssh_forwardOutStreamLocal for each local connection, reconnection) of
// jeanp413/open-remote-ssh. Different here: the server is PEER's, nothing is downloaded.
const { Client } = require('ssh2'), fs = require('fs'), net = require('net'), http = require('http'), assert = require('assert');
const [dir, peer] = process.argv.slice(2);
const die = e => { console.error('open-remote-ssh: ' + (e && e.message || e)); process.exit(1); };
const connect = () => new Promise((ok, no) => {
  const c = new Client();
  c.on('ready', () => ok(c)).on('error', no).connect({
    host: process.env.C_HOST, port: +process.env.C_PORT, username: process.env.C_USER,
    privateKey: fs.readFileSync(process.env.C_PEM), readyTimeout: 90000,
  });
});
const exec = (c, cmd) => new Promise((ok, no) => c.exec(cmd, {}, (e, s) => {
  if (e) return no(e);
  let stdout = '', stderr = '';
  s.on('close', () => ok({ stdout, stderr })).on('data', d => stdout += d).stderr.on('data', d => stderr += d);
}));
// tunnel listens on a local port and forwards each connection to a port or a socket inside.
const tunnel = (c, target) => new Promise(ok => {
  const s = net.createServer(socket => {
    const joined = (e, stream) => {
      if (e) return socket.destroy(e);
      stream.pipe(socket); socket.pipe(stream);
    };
    if (typeof target === 'number') c.forwardOut('127.0.0.1', 0, '127.0.0.1', target, joined);
    else c.openssh_forwardOutStreamLocal(target, joined);
  });
  s.listen(0, '127.0.0.1', () => ok(s));
});
const get = (s, n) => new Promise((ok, no) => http.get({ host: '127.0.0.1', port: s.address().port, path: '/' + n, agent: false }, r => {
  let size = 0;
  r.on('data', d => size += d.length).on('end', () => ok(size)).on('error', no);
}).on('error', no));
async function main() {
  let c = await connect();
  assert((await exec(c, 'uname -s')).stdout.includes('Linux'), 'uname -s');
  const script = `
DIR="${dir}"
print_results() {
    echo "f00d: start"
    echo "exitCode==$1=="
    echo "listeningOn==$(cat "$DIR/port")=="
    echo "tmpDir==\${XDG_RUNTIME_DIR:-/tmp}=="
    echo "f00d: end"
    exit 0
}
cd "$DIR"
if [[ ! -f pid ]]; then
    # It's the script's own quotes that matter here: "double" and 'single'.
    ${peer} http-server tcp:127.0.0.1:0 --ready port &> log < /dev/null &
    echo $! > pid
    ${peer} http-server unix:$DIR/ors.sock --ready sock &> log2 < /dev/null &
fi
while [[ ! -s port || ! -s sock ]]; do sleep 0.1; done
print_results 0
`;
  const install = async () => {
    const { stdout } = await exec(c, `bash -c '${script.replace(/'/g, `'\\''`)}'`);
    const m = /f00d: start\r?\n([^]*)f00d: end/.exec(stdout);
    assert(m, 'no result of the install script: ' + stdout.slice(-200));
    const r = Object.fromEntries(m[1].trim().split(/\r?\n/).map(l => l.split('==')));
    assert.equal(r.exitCode, '0');
    return +r.listeningOn;
  };
  const port = await install();
  for (const target of [port, dir + '/ors.sock']) {
    const t = await tunnel(c, target);
    assert.deepEqual(await Promise.all([...Array(20)].map(() => get(t, 500000))), Array(20).fill(500006), 'twenty requests at once');
    t.close();
  }
  c.end(); // the window is reloaded: the server is still there
  await new Promise(ok => c.on('close', ok));
  c = await connect();
  assert.equal(await install(), port, 'another server after reconnecting');
  const t = await tunnel(c, port);
  assert.equal(await get(t, 0), 6, 'after reconnecting');
  t.close(); c.end();
}
main().catch(die);
