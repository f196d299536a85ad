// The npm `eventsource` client as its README uses it: node events.js URL. Prints each message as a line of JSON, with the
// id that it came with, until it is ended. It comes back by itself, with that id.
'use strict';
const EventSource = require('eventsource');

const source = new EventSource(process.argv[2]);
source.onmessage = (event) => console.log(JSON.stringify({ id: event.lastEventId, message: JSON.parse(event.data) }));
source.onopen = () => console.log(JSON.stringify({ open: true }));
source.onerror = (error) => console.log(JSON.stringify({ error: error.status || 0, ended: source.readyState === EventSource.CLOSED }));
