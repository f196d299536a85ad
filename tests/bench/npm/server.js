// A hub of ws as one would write it: each line of the feed goes to every client. Prints `CLIENT_PORT FEED_PORT`, and ends
// with its standard input.
'use strict';
const net = require('net');
const { WebSocketServer } = require('ws');

const hub = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 4096 });

const feed = net.createServer((connection) => {
  let rest = Buffer.alloc(0);
  connection.on('data', (bytes) => {
    rest = rest.length ? Buffer.concat([rest, bytes]) : bytes;
    let end;
    while ((end = rest.indexOf(10)) >= 0) {
      const event = rest.subarray(0, end);
      rest = rest.subarray(end + 1);
      for (const client of hub.clients) {
        client.send(event, { binary: false });
      }
    }
  });
});

hub.on('connection', (client) => client.on('error', () => client.terminate()));
hub.on('listening', () => feed.listen(0, '127.0.0.1', () => console.log(hub.address().port, feed.address().port)));
process.stdin.on('end', () => process.exit(0)).resume();
