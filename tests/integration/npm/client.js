// The npm `ws` client as its README uses it: node client.js URL [SUBPROTOCOL] [deflate]. Collects messages until five
// values of system.status and a pong have come, closes, and prints what it saw as one JSON object.
'use strict';
const WebSocket = require('ws');

const [url, subprotocol, deflate] = process.argv.slice(2);
const socket = new WebSocket(url, subprotocol ? [subprotocol] : [], { perMessageDeflate: deflate === 'deflate' });
const told = { protocol: null, messages: [], pong: false, close: null };
const limit = setTimeout(() => {
  console.error('not enough within 30 s: ' + JSON.stringify(told).slice(0, 2000));
  process.exit(1);
}, 30000);

socket.on('open', () => {
  told.protocol = socket.protocol;
  if (subprotocol) {
    socket.send(JSON.stringify({ type: 'subscribe', id: 1, data: { types: ['system.status'] } }));
  }
  socket.send('{"type":"ping"}');
  socket.ping('are you there');
});
socket.on('pong', () => { told.pong = true; });
socket.on('message', (data, isBinary) => {
  if (isBinary) {
    throw new Error('a binary message');
  }
  told.messages.push(JSON.parse(data.toString()));
  const count = (type) => told.messages.filter((message) => message.type === type).length;
  if (count('system.status') >= 5 && count('pong') >= 1 && told.pong) {
    socket.close(1000);
  }
});
socket.on('error', (error) => {
  console.error(String(error));
  process.exit(1);
});
socket.on('close', (code) => {
  clearTimeout(limit);
  told.close = code;
  console.log(JSON.stringify(told));
});
