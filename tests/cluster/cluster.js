// A Node cluster whose workers talk through corecast:
//
//     corecast run -- node cluster.js 8080
//
// Node starts its workers with exec: they inherit nothing but the environment, and find the hub there.
// GET /say tells all workers this one's pid, GET / shows what this one has heard.
'use strict'

const cluster = require('node:cluster')
const http = require('node:http')

const ANY = 0xffffffff

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork()
  cluster.on('exit', () => cluster.fork())
} else {
  serve(Number(process.argv[2]))
}

// The C library, as far as it is used here.
function corecast() {
  const koffi = require('koffi')
  const library = koffi.load(process.env.CORECAST_LIBRARY ?? 'libcorecast.so.0.1')
  const message = koffi.struct('channel_message_t', {
    size: 'size_t',
    name: 'const void *',
    name_len: 'size_t',
    body: 'const void *',
    body_len: 'size_t',
    channel: 'uint64_t',
    worker: 'uint32_t',
    core: 'uint32_t',
    ticket: 'uint64_t',
    timestamp: 'uint64_t',
    lost: 'uint64_t'
  })
  const lastError = library.func('const char *channel_last_error()')
  const checked = (declaration) => {
    const call = library.func(declaration)
    return (...args) => {
      const result = call(...args)
      if (result < 0) throw new Error(lastError())
      return result
    }
  }
  const receive = library.func('int channel_recv_timeout(void *, int, _Inout_ channel_message_t *)')
  return {
    connect: checked('int channel_hub_connect(const char *, int, _Out_ void **)'),
    attach: checked('int channel_attach(void *, uint32_t, uint32_t, _Out_ void **)'),
    join: checked('int channel_join(void *, const char *, void *)'),
    send: checked('int channel_send(void *, const char *, const void *, size_t)'),
    // Waits in a thread of Node's pool; the loop goes on.
    receive: (core, milliseconds) => new Promise((resolve, reject) => {
      const found = { size: koffi.sizeof(message) }
      receive.async(core, milliseconds, found, (error, result) => {
        if (error) return reject(error)
        if (result < 0) return reject(new Error(`channel_recv_timeout: ${result}`))
        resolve(result ? koffi.decode(found.body, 'char', Number(found.body_len)) : null)
      })
    })
  }
}

function serve(port) {
  const channels = corecast()
  const out = [null]
  const attach = () => {
    channels.attach(hub, ANY, ANY, out)
    return out[0]
  }
  channels.connect(null, 5000, out)
  const hub = out[0]
  // A core is used by one thread at a time: one is for receiving, one for the loop.
  const [ears, mouth] = [attach(), attach()]
  channels.join(ears, 'all', null)

  const heard = []
  const listen = async () => {
    for (;;) {
      const body = await channels.receive(ears, 1000)
      if (body !== null) heard.push(body)
    }
  }
  listen().catch((error) => {
    console.error(error)
    process.exit(1)
  })

  const answer = (request, response) => {
    if (request.url === '/say') {
      const text = Buffer.from(String(process.pid))
      channels.send(mouth, 'all', text, text.length)
    }
    response.setHeader('Connection', 'close')
    response.end(JSON.stringify({ pid: process.pid, heard }))
  }
  http.createServer(answer).listen(port, '127.0.0.1')
}
